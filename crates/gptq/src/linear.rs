use std::fmt;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::{Element, Error, Rotation, e2m1, e4m3, e8m0, int};

/// A linear layer whose weights are codes with a scale per group along the input axis: `W[o, i] = value(code) · scale`,
/// with `y = T(x) Wᵀ + bias`, where `T` reorders and rotates the inputs.
///
/// Codes are kept as all formats can share them: row-major, a byte or a nibble each. What a file looks like is the
/// business of whoever reads and writes it.
#[derive(Clone, PartialEq)]
pub struct GroupedLinear(Parts);

/// The parts of a [`GroupedLinear`], unchecked.
#[derive(Clone, PartialEq)]
pub struct Parts {
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// What a code stands for.
    pub element: Element,
    /// Weights along the input axis that share a scale; divides `in_features`, even.
    pub group: usize,
    /// `[out, in]`, row-major. Of 8 bits: a byte each. Others: two to a byte, the even input in the low nibble.
    pub codes: Vec<u8>,
    /// `[out, in / group]`, row-major.
    pub scales: Scales,
    /// Integers only: the code that stands for zero, `[out, in / group]`; `None` is the middle one everywhere.
    pub zeros: Option<Vec<u8>>,
    /// Input `i` of the codes is input `order[i]` of the layer; `None` is as it is.
    pub order: Option<Vec<u32>>,
    /// What inputs are rotated with, after being reordered.
    pub rotation: Rotation,
    /// Added to the output, `[out]`.
    pub bias: Option<Vec<f32>>,
}

/// Scales in the type that a file holds them in.
#[derive(Clone, PartialEq)]
pub enum Scales {
    /// Half precision.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
    /// Single precision.
    F32(Vec<f32>),
    /// E4M3 bytes, divided by a factor of the whole matrix.
    E4m3 {
        /// The bytes.
        bytes: Vec<u8>,
        /// The factor `G`.
        global: f32,
    },
    /// Powers of two `2^(byte − 127)`, divided by a factor of the whole matrix.
    E8m0 {
        /// The bytes.
        bytes: Vec<u8>,
        /// The factor: 1, or FP-Quant's 3.
        global: f32,
    },
}

impl Scales {
    /// Number of scales.
    pub fn len(&self) -> usize {
        match self {
            Scales::F16(v) => v.len(),
            Scales::Bf16(v) => v.len(),
            Scales::F32(v) => v.len(),
            Scales::E4m3 { bytes, .. } | Scales::E8m0 { bytes, .. } => bytes.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Scale `i` in f32, as files mean it.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Scales::F16(v) => v[i].to_f32(),
            Scales::Bf16(v) => v[i].to_f32(),
            Scales::F32(v) => v[i],
            Scales::E4m3 { bytes, global } => e4m3::decode(bytes[i]) / global,
            Scales::E8m0 { bytes, global } => e8m0::decode(bytes[i]) / global,
        }
    }

    /// All of them in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        (0..self.len()).map(|i| self.get(i)).collect()
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        match self {
            Scales::F16(v) => 2 * v.len(),
            Scales::Bf16(v) => 2 * v.len(),
            Scales::F32(v) => 4 * v.len(),
            Scales::E4m3 { bytes, .. } | Scales::E8m0 { bytes, .. } => bytes.len() + 4,
        }
    }
}

/// Their type and number, and the factor of the matrix: not a hundred thousand numbers.
impl fmt::Debug for Scales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, global) = match self {
            Scales::F16(_) => ("F16", None),
            Scales::Bf16(_) => ("Bf16", None),
            Scales::F32(_) => ("F32", None),
            Scales::E4m3 { global, .. } => ("E4m3", Some(global)),
            Scales::E8m0 { global, .. } => ("E8m0", Some(global)),
        };
        let mut debug = f.debug_struct(name);
        debug.field("len", &self.len());
        if let Some(global) = global {
            debug.field("global", global);
        }
        debug.finish()
    }
}

/// Sizes and kinds, not millions of codes.
impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("in_features", &self.in_features)
            .field("out_features", &self.out_features)
            .field("element", &self.element)
            .field("group", &self.group)
            .field("scales", &self.scales)
            .field("zeros", &self.zeros.is_some())
            .field("order", &self.order.is_some())
            .field("rotation", &self.rotation)
            .field("bias", &self.bias.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for GroupedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GroupedLinear").field(&self.0).finish()
    }
}

impl GroupedLinear {
    /// Checks the parts against each other and puts them together.
    ///
    /// # Errors
    /// [`Error::Group`], [`Error::Rotation`], [`Error::Order`] or [`Error::Shape`], naming the part that does not fit;
    /// [`Error::Scale`] for a scale that is no number, [`Error::GlobalScale`] for a factor that is not positive,
    /// [`Error::Code`] for a code or a zero of more bits than there are, [`Error::Zeros`] for zeros beside floats.
    pub fn new(parts: Parts) -> Result<Self, Error> {
        let Parts {
            in_features,
            out_features,
            group,
            ..
        } = parts;
        check_group(group, in_features)?;
        check_rotation(parts.rotation, in_features)?;
        let shape = |what, expected, found| match expected == found {
            true => Ok(()),
            false => Err(Error::Shape {
                what,
                expected,
                found,
            }),
        };
        let row_bytes = in_features / 2 * (parts.element.code_bits() / 4);
        shape(
            "bytes of codes",
            out_features.saturating_mul(row_bytes),
            parts.codes.len(),
        )?;
        let groups = out_features.saturating_mul(in_features / group);
        shape("scales", groups, parts.scales.len())?;
        if let Some(zeros) = &parts.zeros {
            shape("zeros", groups, zeros.len())?;
        }
        if let Some(bias) = &parts.bias {
            shape("bias", out_features, bias.len())?;
        }
        if let Some(order) = &parts.order {
            shape("input order", in_features, order.len())?;
            let mut seen = vec![false; in_features];
            for &input in order {
                match seen.get_mut(input as usize) {
                    Some(seen) if !*seen => *seen = true,
                    _ => return Err(Error::Order(in_features)),
                }
            }
        }
        check_codes(&parts)?;
        check_scales(&parts.scales, in_features / group)?;
        Ok(Self(parts))
    }

    /// What it is made of.
    pub fn parts(&self) -> &Parts {
        &self.0
    }

    /// What it is made of, to change and put together again.
    pub fn into_parts(self) -> Parts {
        self.0
    }

    /// Width of the input.
    pub fn in_features(&self) -> usize {
        self.0.in_features
    }

    /// Width of the output.
    pub fn out_features(&self) -> usize {
        self.0.out_features
    }

    /// Bytes of codes of one output.
    pub fn row_bytes(&self) -> usize {
        self.0.in_features * self.0.element.code_bits() / 8
    }

    /// Groups of one output.
    pub fn groups(&self) -> usize {
        self.0.in_features / self.0.group
    }

    /// The code of the weight from (reordered) input `input` to `output`.
    pub fn code(&self, output: usize, input: usize) -> u8 {
        let row = &self.0.codes[output * self.row_bytes()..];
        match self.0.element.code_bits() {
            8 => row[input],
            _ => row[input / 2] >> (4 * (input % 2)) & 15,
        }
    }

    /// Writes the weights of `output` as the inputs meet them, reordered and rotated, into `row`, `[in]`.
    ///
    /// # Panics
    /// If `row` has another length.
    pub fn decode_row(&self, output: usize, row: &mut [f32]) {
        assert_eq!(row.len(), self.0.in_features, "weights of one output");
        let Parts {
            element,
            group,
            codes,
            scales,
            zeros,
            ..
        } = &self.0;
        let (row_bytes, groups) = (self.row_bytes(), self.groups());
        let codes = codes[output * row_bytes..][..row_bytes].chunks_exact(row_bytes / groups);
        for ((codes, weights), at) in codes
            .zip(row.chunks_exact_mut(*group))
            .zip(output * groups..)
        {
            let scale = scales.get(at);
            match element {
                Element::E2m1 => pairs(codes, weights, |code| e2m1::decode(code) * scale),
                Element::Int(bits) => {
                    let zero = zeros.as_ref().map_or(bits.middle(), |zeros| zeros[at]);
                    let value = |code| int::decode(code, zero) * scale;
                    match element.code_bits() {
                        8 => (codes.iter().zip(weights)).for_each(|(&code, w)| *w = value(code)),
                        _ => pairs(codes, weights, value),
                    }
                }
            }
        }
    }

    /// The weights `[out, in]`, row-major, in the layer's own basis: in its own order, not rotated.
    ///
    /// Runs on the current rayon pool.
    pub fn dequantize(&self) -> Vec<f32> {
        let width = self.0.in_features;
        let mut weights = vec![0.0; width * self.0.out_features];
        let decode = |decoded: &mut Vec<f32>, (output, row): (usize, &mut [f32])| {
            self.decode_row(output, decoded);
            if let Rotation::Block(block) = self.0.rotation {
                treillage_linalg::hadamard::fwht(decoded, block);
            }
            match &self.0.order {
                None => row.copy_from_slice(decoded),
                Some(order) => {
                    for (&input, &weight) in order.iter().zip(&*decoded) {
                        row[input as usize] = weight;
                    }
                }
            }
        };
        (weights.par_chunks_exact_mut(width).enumerate())
            .for_each_init(|| vec![0.0; width], decode);
        weights
    }

    /// Bytes that codes, scales and zeros take in memory.
    pub fn bytes(&self) -> usize {
        self.0.codes.len() + self.0.scales.bytes() + self.0.zeros.as_ref().map_or(0, Vec::len)
    }
}

/// Decodes two weights from each byte, the first from its low nibble.
#[inline]
fn pairs(codes: &[u8], weights: &mut [f32], value: impl Fn(u8) -> f32) {
    for (byte, pair) in codes.iter().zip(weights.chunks_exact_mut(2)) {
        pair[0] = value(byte & 15);
        pair[1] = value(byte >> 4);
    }
}

/// Codes and zeros must be codes, which those of 2 and 3 bits, in nibbles, need not be.
fn check_codes(parts: &Parts) -> Result<(), Error> {
    let Element::Int(bits) = parts.element else {
        return match parts.zeros {
            Some(_) => Err(Error::Zeros),
            None => Ok(()),
        };
    };
    let check = |what, most: u8, codes: &[u8], nibbles: bool| {
        let code = |&byte: &u8| match nibbles {
            true => (byte & 15).max(byte >> 4),
            false => byte,
        };
        match codes.iter().map(code).max() {
            Some(value) if value > most => Err(Error::Code {
                what,
                value,
                bits: bits.get(),
            }),
            _ => Ok(()),
        }
    };
    let most = (bits.levels() - 1) as u8;
    if bits.get() < parts.element.code_bits() {
        check("codes", most, &parts.codes, true)?;
    }
    check(
        "zeros",
        most,
        parts.zeros.as_deref().unwrap_or_default(),
        false,
    )
}

/// Scales must be numbers, and their factor a positive one. `groups` is the number of one output's.
fn check_scales(scales: &Scales, groups: usize) -> Result<(), Error> {
    let factor = match scales {
        Scales::E4m3 { global, .. } | Scales::E8m0 { global, .. } => *global,
        Scales::F16(_) | Scales::Bf16(_) | Scales::F32(_) => 1.0,
    };
    if !(factor.is_finite() && factor > 0.0) {
        return Err(Error::GlobalScale(factor));
    }
    let strange = match scales {
        Scales::F16(v) => v.iter().position(|scale| !scale.is_finite()),
        Scales::Bf16(v) => v.iter().position(|scale| !scale.is_finite()),
        Scales::F32(v) => v.iter().position(|scale| !scale.is_finite()),
        // Finite bytes may yet overflow when divided by a tiny factor.
        Scales::E4m3 { bytes, .. } | Scales::E8m0 { bytes, .. } => {
            (0..bytes.len()).find(|&at| !scales.get(at).is_finite())
        }
    };
    match strange {
        Some(at) => Err(Error::Scale {
            value: scales.get(at),
            output: at / groups,
            group: at % groups,
        }),
        None => Ok(()),
    }
}

/// Groups must be even and tile the input axis.
pub(crate) fn check_group(group: usize, in_features: usize) -> Result<(), Error> {
    let error = |reason| {
        Err(Error::Group {
            group,
            in_features,
            reason,
        })
    };
    if group == 0 || !group.is_multiple_of(2) {
        return error("a group is a positive, even number of inputs");
    }
    if in_features == 0 || !in_features.is_multiple_of(group) {
        return error("they must divide them");
    }
    Ok(())
}

pub(crate) fn check_rotation(rotation: Rotation, in_features: usize) -> Result<(), Error> {
    match rotation {
        Rotation::Block(block)
            if !Rotation::BLOCKS.contains(&block) || !in_features.is_multiple_of(block) =>
        {
            Err(Error::Rotation { block, in_features })
        }
        _ => Ok(()),
    }
}
