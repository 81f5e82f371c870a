//! Layers of codes with a scale per group.

use std::sync::Arc;

use half::f16;
use treillage_gptq::{Element, Format, GroupedLinear, Parts, Rotation, Scales};

use super::layer::{Layer, rotate_columns, widened};
use super::noise::Noise;
use super::reference::Matrix;
use crate::{Error, LinearShape, LinearWeights};

/// How a grouped layer is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Make {
    pub(super) format: Format,
    /// Whether zero is a code of each group's own.
    pub(super) asymmetric: bool,
    /// Whether inputs are reordered.
    pub(super) reordered: bool,
    /// What they are rotated with; must divide them.
    pub(super) rotation: Rotation,
}

impl Make {
    pub(super) const fn new(format: Format) -> Self {
        Self {
            format,
            asymmetric: false,
            reordered: false,
            rotation: Rotation::None,
        }
    }
}

/// Random codes and scales, in groups of the format's size where that divides the inputs, else of the next smaller one that
/// does; the output is about as large as the input.
pub(super) fn grouped(
    noise: &mut Noise,
    make: Make,
    shape: LinearShape,
    bias: bool,
) -> Result<Layer, Error> {
    let LinearShape {
        in_features,
        out_features,
    } = shape;
    let group = (1..=make.format.default_group())
        .rev()
        .find(|group| group % 2 == 0 && in_features.is_multiple_of(*group))
        .unwrap_or(in_features);
    let groups = shape.weights() / group;
    let element = make.format.element();
    let levels = 1u64 << element.bits();
    let codes: Vec<u8> = (0..shape.weights())
        .map(|_| (noise.bits() % levels) as u8)
        .collect();
    let spread = match element {
        Element::Int(bits) => bits.levels() as f32 / 4.0,
        Element::E2m1 => 3.0,
    };
    let (scales, kept) = scales(
        noise,
        make.format,
        groups,
        spread * (in_features as f32).sqrt(),
    );
    let zeros: Option<Vec<u8>> = make
        .asymmetric
        .then(|| (0..groups).map(|_| (noise.bits() % levels) as u8).collect());
    let order = make.reordered.then(|| permutation(noise, in_features));
    let bias = bias.then(|| noise.values(out_features));

    let value = |at: usize| {
        let code = codes[at];
        let value = match element {
            Element::E2m1 => e2m1(code),
            Element::Int(_) => {
                let zero = zeros.as_ref().map_or((levels / 2) as u8, |z| z[at / group]);
                f64::from(code) - f64::from(zero)
            }
        };
        value * kept[at / group]
    };
    let mut inner = Matrix::zeros(out_features, in_features);
    for (at, weight) in inner.values.iter_mut().enumerate() {
        *weight = value(at);
    }
    if let Rotation::Block(block) = make.rotation {
        inner = rotate_columns(&inner, block);
    }
    let mut matrix = inner.clone();
    if let Some(order) = &order {
        for (i, &input) in order.iter().enumerate() {
            for o in 0..out_features {
                matrix.values[o * in_features + input as usize] = inner.row(o)[i];
            }
        }
    }

    let codes = match element.code_bits() {
        8 => codes,
        _ => codes.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect(),
    };
    Ok(Layer {
        shape,
        matrix,
        bias: widened(bias.as_deref(), out_features),
        weights: LinearWeights::Grouped(Arc::new(GroupedLinear::new(Parts {
            in_features,
            out_features,
            element,
            group,
            codes,
            scales,
            zeros,
            order,
            rotation: make.rotation,
            bias,
        })?)),
    })
}

/// Scales about as large as `1 / inverse`, as stored and in f64.
fn scales(noise: &mut Noise, format: Format, count: usize, inverse: f32) -> (Scales, Vec<f64>) {
    match format {
        Format::Int(_) | Format::Fp4 => {
            let near = |noise: &mut Noise| (1.0 + 0.5 * noise.value()) / inverse;
            let scales: Vec<f16> = (0..count).map(|_| f16::from_f32(near(noise))).collect();
            let kept = scales.iter().map(|s| s.to_f64()).collect();
            (Scales::F16(scales), kept)
        }
        Format::NvFp4 => {
            // Subnormal ones among them, NaN not.
            let bytes: Vec<u8> = (0..count).map(|_| (noise.bits() % 0x58) as u8).collect();
            let global = 2.0 * inverse;
            let kept = bytes.iter().map(|&b| e4m3(b) / f64::from(global)).collect();
            (Scales::E4m3 { bytes, global }, kept)
        }
        Format::MxFp4 => {
            let middle = 127 - inverse.log2() as i32;
            let bytes: Vec<u8> = (0..count)
                .map(|_| (middle + (noise.bits() % 3) as i32) as u8)
                .collect();
            let global = 3.0;
            let kept = bytes
                .iter()
                .map(|&b| 2f64.powi(i32::from(b) - 127) / f64::from(global))
                .collect();
            (Scales::E8m0 { bytes, global }, kept)
        }
    }
}

/// Sign, two bits of exponent with bias 1, one of significand.
fn e2m1(code: u8) -> f64 {
    small_float(code, 8, 1, 1)
}

/// Sign, four bits of exponent with bias 7, three of significand.
fn e4m3(byte: u8) -> f64 {
    small_float(byte, 0x80, 3, 7)
}

fn small_float(code: u8, sign: u8, significand_bits: u32, bias: i32) -> f64 {
    let ones = 1 << significand_bits;
    let exponent = i32::from((code & (sign - 1)) >> significand_bits);
    let fraction = f64::from(code & (ones - 1)) / f64::from(ones);
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(1 - bias),
        _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
    };
    if code & sign == 0 {
        magnitude
    } else {
        -magnitude
    }
}

fn permutation(noise: &mut Noise, count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    for i in (1..count).rev() {
        order.swap(i, (noise.bits() % (i as u64 + 1)) as usize);
    }
    order
}
