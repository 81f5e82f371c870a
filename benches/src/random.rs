//! Inputs made up from a seed: numbers, packed and grouped linears.

use std::sync::Arc;

use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use treillage_backend::{DenseData, DenseWeights, LinearShape, LinearWeights};
use treillage_gptq::{Format, GroupedLinear, Parts, Rotation, Scales};
use treillage_trellis::{Bits, Codebook, PackedLinear, PackedParts};

/// The generator that every measurement draws from.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// `count` draws from N(0, 1), by Box and Muller's method.
pub fn normal(rng: &mut impl Rng, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let angle = std::f64::consts::TAU * rng.random::<f64>();
            (radius * angle.cos()) as f32
        })
        .collect()
}

/// A linear of random words and signs whose output has about the variance of its input. Speed does not depend on
/// what the words mean.
///
/// # Errors
/// If a size is not a multiple of 128.
pub fn packed_linear(
    rng: &mut impl Rng,
    shape: LinearShape,
    bits: Bits,
    codebook: Codebook,
) -> Result<PackedLinear, treillage_trellis::Error> {
    let LinearShape {
        in_features,
        out_features,
    } = shape;
    let tiles = [in_features / 16, out_features / 16, bits.words_per_tile()];
    let mut words = vec![0u16; tiles.iter().product()];
    rng.fill(&mut words[..]);
    let mut scales = |count: usize, scale: f32| -> Vec<f16> {
        (0..count)
            .map(|_| f16::from_f32(if rng.random() { scale } else { -scale }))
            .collect()
    };
    PackedLinear::new(PackedParts {
        words: Arc::new(words),
        shape: tiles,
        codebook,
        suh: scales(in_features, (in_features as f32).sqrt().recip()),
        svh: scales(out_features, 1.0),
        bias: None,
    })
}

/// A linear of random codes, in groups of the format's usual size (of all inputs, where that does not divide them), whose
/// output has about the variance of its input. Symmetric, in its own order, not rotated.
///
/// # Errors
/// If the input's width is odd.
pub fn grouped_linear(
    rng: &mut impl Rng,
    shape: LinearShape,
    format: Format,
) -> Result<GroupedLinear, treillage_gptq::Error> {
    let LinearShape {
        in_features,
        out_features,
    } = shape;
    let element = format.element();
    let group = match format.default_group() {
        group if in_features.is_multiple_of(group) => group,
        _ => in_features,
    };
    let mut codes = vec![0u8; shape.weights() * element.code_bits() / 8];
    rng.fill(&mut codes[..]);
    // Of 2 and 3 bits, nibbles are not full.
    if element.bits() < 4 {
        let mask = ((1 << element.bits()) - 1) * 0x11;
        codes.iter_mut().for_each(|byte| *byte &= mask);
    }
    // Codes of b bits spread by about 2^b / √12, those of E2M1 by 3.
    let spread = match format {
        Format::Int(bits) => bits.levels() as f32 / 12f32.sqrt(),
        _ => 3.0,
    };
    let scale = 1.0 / (spread * (in_features as f32).sqrt());
    let groups = shape.weights() / group;
    let mut near = |scale: f32| scale * (0.5 + rng.random::<f32>());
    let scales = match format {
        Format::Int(_) | Format::Fp4 => {
            Scales::F16((0..groups).map(|_| f16::from_f32(near(scale))).collect())
        }
        Format::NvFp4 => Scales::E4m3 {
            // From 22 to 65, 0.05 to 2.25: bytes in which the exponent and the significand both move.
            bytes: (0..groups).map(|_| near(44.0) as u8).collect(),
            global: 0.7 / scale,
        },
        Format::MxFp4 => Scales::E8m0 {
            bytes: vec![(127.0 + scale.log2().round()) as u8; groups],
            global: 1.0,
        },
    };
    GroupedLinear::new(Parts {
        in_features,
        out_features,
        element,
        group,
        codes,
        scales,
        zeros: None,
        order: None,
        rotation: Rotation::None,
        bias: None,
    })
}

/// What a random linear is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Trellis codes.
    Trellis(Bits, Codebook),
    /// Codes with a scale per group.
    Grouped(Format),
    /// Plain bfloat16.
    Bf16,
}

impl Kind {
    /// About how many bits a weight takes, scales included.
    pub fn bits_per_weight(self) -> f64 {
        match self {
            Kind::Trellis(bits, _) => bits.get() as f64,
            Kind::Grouped(format) => {
                let scale = match format {
                    Format::Int(_) | Format::Fp4 => 16.0,
                    Format::NvFp4 | Format::MxFp4 => 8.0,
                };
                format.element().code_bits() as f64 + scale / format.default_group() as f64
            }
            Kind::Bf16 => 16.0,
        }
    }
}

/// A random linear of `kind`, padded where trellis codes want it.
///
/// # Errors
/// As [`packed_linear`] and [`grouped_linear`].
pub fn linear(
    rng: &mut impl Rng,
    shape: LinearShape,
    kind: Kind,
) -> Result<LinearWeights, treillage_backend::Error> {
    Ok(match kind {
        Kind::Trellis(bits, codebook) => {
            let padded = LinearShape {
                in_features: shape.in_features.next_multiple_of(128),
                out_features: shape.out_features.next_multiple_of(128),
            };
            LinearWeights::Trellis(Arc::new(packed_linear(rng, padded, bits, codebook)?))
        }
        Kind::Grouped(format) => {
            LinearWeights::Grouped(Arc::new(grouped_linear(rng, shape, format)?))
        }
        Kind::Bf16 => {
            let scale = (shape.in_features as f32).sqrt().recip();
            let near = |x: f32| bf16::from_f32(scale * x);
            let values: Vec<bf16> = normal(rng, shape.weights()).into_iter().map(near).collect();
            let data = DenseData::Bf16(Arc::new(values));
            LinearWeights::Dense {
                weight: DenseWeights::new(shape.out_features, shape.in_features, data)?,
                bias: None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grouped_linears_keep_about_the_variance_of_their_input() {
        let shape = LinearShape {
            in_features: 256,
            out_features: 64,
        };
        for format in Format::ALL {
            let linear = grouped_linear(&mut rng(1), shape, format).expect("whole groups");
            let weights = linear.dequantize();
            let energy: f32 = weights.iter().map(|w| w * w).sum();
            let gain = energy / shape.out_features as f32;
            assert!((0.25..4.0).contains(&gain), "{format}: {gain}");
        }
    }
}
