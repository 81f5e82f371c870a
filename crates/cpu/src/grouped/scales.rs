use std::ops::Range;

use half::{bf16, f16};
use treillage_gptq::{GroupedLinear, Scales};

use super::layout::{Layout, Meaning};
use super::simd::LANES;

/// The scales of a few outputs in f32, laid out as [`Layout::shift`] says, without the matrix's factor.
pub(super) struct LaneScales {
    /// Floats of an output.
    stride: usize,
    scales: Vec<f32>,
    /// What codes' values are too small by; of asymmetric linears alone.
    zeros: Option<Vec<f32>>,
    groups: Vec<f32>,
}

impl LaneScales {
    /// Room for `outputs` of them.
    pub(super) fn new(linear: &GroupedLinear, layout: &Layout, outputs: usize) -> Self {
        // Lanes are read a vector at a time, wherever it starts.
        let stride = (layout.chunks << layout.shift) + LANES;
        let floats = || vec![0.0; outputs * stride];
        Self {
            stride,
            scales: floats(),
            zeros: linear.parts().zeros.as_ref().map(|_| floats()),
            groups: vec![0.0; linear.groups()],
        }
    }

    /// Of output `i` of those that it was filled with: scales, and what its values are too small by.
    #[inline(always)]
    pub(super) fn of(&self, i: usize) -> (&[f32], Option<&[f32]>) {
        let span = i * self.stride..(i + 1) * self.stride;
        let zeros = self.zeros.as_ref().map(|zeros| &zeros[span.clone()]);
        (&self.scales[span], zeros)
    }

    /// Fills it for `outputs`.
    #[inline(always)]
    pub(super) fn fill(
        &mut self,
        linear: &GroupedLinear,
        layout: &Layout,
        meaning: &Meaning,
        outputs: Range<usize>,
    ) {
        let (parts, groups) = (linear.parts(), linear.groups());
        for (i, output) in outputs.enumerate() {
            let span = output * groups..(output + 1) * groups;
            let scales = &mut self.scales[i * self.stride..][..self.stride];
            let spread = layout.span == parts.group;
            let decoded = if spread {
                &mut scales[..groups]
            } else {
                &mut self.groups[..]
            };
            decode(&parts.scales, span.clone(), decoded);
            if meaning.unit != 1.0 {
                for scale in decoded.iter_mut() {
                    *scale *= meaning.unit;
                }
            }
            if !spread {
                lay_out(&self.groups, parts.group, layout, scales);
            }
            if let (Some(to), Some(zeros)) = (&mut self.zeros, &parts.zeros) {
                let to = &mut to[i * self.stride..][..self.stride];
                let middle = f32::from(meaning.offset);
                let decoded = if spread {
                    &mut to[..groups]
                } else {
                    &mut self.groups[..]
                };
                for (to, &zero) in decoded.iter_mut().zip(&zeros[span]) {
                    *to = middle - f32::from(zero);
                }
                if !spread {
                    lay_out(&self.groups, parts.group, layout, to);
                }
            }
        }
    }
}

/// Repeats what groups have for all scales of the chunks.
#[inline(always)]
fn lay_out(of_groups: &[f32], group: usize, layout: &Layout, to: &mut [f32]) {
    for (i, to) in to[..layout.chunks << layout.shift].iter_mut().enumerate() {
        // Beyond the last input there are zeros to multiply.
        *to = of_groups
            .get(i * layout.span / group)
            .copied()
            .unwrap_or(0.0);
    }
}

/// Writes scales `range` in f32, without the matrix's factor. Without calls, so that it vectorises inside a kernel.
#[inline(always)]
fn decode(scales: &Scales, range: Range<usize>, to: &mut [f32]) {
    match scales {
        Scales::F16(from) => widen::<f16>(&from[range], to),
        Scales::Bf16(from) => widen::<bf16>(&from[range], to),
        Scales::F32(from) => to.copy_from_slice(&from[range]),
        Scales::E4m3 { bytes, .. } => {
            for (to, &byte) in to.iter_mut().zip(&bytes[range]) {
                *to = e4m3(byte);
            }
        }
        Scales::E8m0 { bytes, .. } => {
            for (to, &byte) in to.iter_mut().zip(&bytes[range]) {
                *to = e8m0(byte);
            }
        }
    }
}

#[inline(always)]
fn widen<T: crate::dots::Element>(from: &[T], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.widen();
    }
}

/// [`treillage_gptq::e4m3::decode`], without branches.
#[inline(always)]
fn e4m3(byte: u8) -> f32 {
    let (sign, magnitude) = (u32::from(byte & 0x80) << 24, u32::from(byte & 0x7F));
    let normal = (magnitude << 20) + ((127 - 7) << 23);
    let small = (magnitude as f32 * (1.0 / 512.0)).to_bits();
    let bits = if magnitude < 8 { small } else { normal };
    let bits = if magnitude == 0x7F {
        f32::NAN.to_bits()
    } else {
        bits
    };
    f32::from_bits(bits | sign)
}

/// [`treillage_gptq::e8m0::decode`], without branches.
#[inline(always)]
fn e8m0(byte: u8) -> f32 {
    let power = u32::from(byte) << 23;
    let bits = if byte == 0 { 1 << 22 } else { power };
    f32::from_bits(if byte == 255 {
        f32::NAN.to_bits()
    } else {
        bits
    })
}

/// What all outputs are divided by.
pub(super) fn global(scales: &Scales) -> f32 {
    match scales {
        Scales::E4m3 { global, .. } | Scales::E8m0 { global, .. } => *global,
        Scales::F16(_) | Scales::Bf16(_) | Scales::F32(_) => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_the_scale_that_files_mean() {
        for byte in 0..=u8::MAX {
            for (found, expected) in [
                (e4m3(byte), treillage_gptq::e4m3::decode(byte)),
                (e8m0(byte), treillage_gptq::e8m0::decode(byte)),
            ] {
                assert!(
                    found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                    "{byte:02x}: {found} for {expected}"
                );
            }
        }
    }
}
