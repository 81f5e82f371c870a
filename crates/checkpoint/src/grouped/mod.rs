//! Linears whose weights are codes with a scale per group: compressed-tensors, `fp_quant`, GPTQ.
//!
//! What a tensor's name, type and shape say is believed before the configuration, because a configuration describes
//! the model and may have exceptions.

mod compressed;
mod fp_quant;
mod gptq;
mod order;

use std::ops::RangeInclusive;

use treillage_gptq::{GroupedLinear, IntBits, Parts, Scales, e4m3, pack};

use crate::{
    Checkpoint, DenseData, DenseTensor, Dtype, Result, StoredLinear, TensorError, TensorView,
};

/// The size of a linear, as the model wants it.
#[derive(Clone, Copy)]
struct Size {
    in_features: usize,
    out_features: usize,
}

/// Last components of the names by which a packed linear is known.
const MARKS: [&str; 3] = ["weight_packed", "qweight", "dqweight"];

impl Checkpoint {
    /// Whether `prefix` is a linear of one of these formats, by the tensor that its codes are in. Linears of
    /// 8-bit integers are not among them: those are called `weight`.
    pub(crate) fn has_packed(&self, prefix: &str) -> bool {
        MARKS
            .iter()
            .any(|mark| self.contains(&format!("{prefix}.{mark}")))
    }

    /// The linear `prefix` if it is of one of these formats.
    pub(crate) fn packed(
        &self,
        prefix: &str,
        in_features: usize,
        out_features: usize,
    ) -> Result<Option<StoredLinear>> {
        let size = Size {
            in_features,
            out_features,
        };
        let linear = Linear {
            checkpoint: self,
            prefix,
            size,
        };
        if let Some(codes) = linear.find("weight_packed") {
            return linear.compressed(&codes).map(grouped);
        }
        if let Some(weights) = linear.find("dqweight") {
            return linear.pseudo_quantized(&weights).map(Some);
        }
        match linear.find("qweight") {
            None => {}
            Some(codes) => match codes.dtype() {
                Dtype::U8 => return linear.fp_quant(&codes).map(grouped),
                Dtype::I32 => return linear.gptq(&codes).map(grouped),
                found => {
                    let expected = "U8 (fp_quant) or I32 (GPTQ)";
                    return Err(codes.error(TensorError::Dtype { expected, found }));
                }
            },
        }
        match linear.find("weight") {
            Some(codes) if codes.dtype() == Dtype::I8 => linear.int8(&codes).map(grouped),
            _ => Ok(None),
        }
    }
}

fn grouped(linear: GroupedLinear) -> Option<StoredLinear> {
    Some(StoredLinear::Grouped(linear))
}

/// A linear that is being read.
#[derive(Clone, Copy)]
struct Linear<'a> {
    checkpoint: &'a Checkpoint,
    prefix: &'a str,
    size: Size,
}

impl<'a> Linear<'a> {
    fn find(&self, leaf: &str) -> Option<TensorView<'a>> {
        self.checkpoint
            .tensor_if_any(&format!("{}.{leaf}", self.prefix))
    }

    fn need(&self, leaf: &str) -> Result<TensorView<'a>> {
        self.checkpoint.tensor(&format!("{}.{leaf}", self.prefix))
    }

    fn bias(&self) -> Result<Option<Vec<f32>>> {
        let bias = self.find("bias");
        bias.map(|bias| self.checkpoint.vector(bias.name(), self.size.out_features))
            .transpose()
    }

    /// Puts `parts` together; `codes` is what a misfit is blamed on.
    fn assemble(&self, codes: &TensorView<'_>, parts: Parts) -> Result<GroupedLinear> {
        GroupedLinear::new(parts).map_err(|reason| codes.error(reason))
    }

    /// The one finite, positive number in the tensor `leaf`.
    fn factor(&self, leaf: &str) -> Result<f32> {
        let view = self.need(leaf)?;
        if view.len() != 1 {
            view.expect_shape(&[1])?;
        }
        let factor = DenseTensor::from_view(&view)?.to_f32()[0];
        match factor.is_finite() && factor > 0.0 {
            true => Ok(factor),
            false => Err(view.error(TensorError::Factor(factor))),
        }
    }

    /// Inputs that share a scale, from the `groups` that a tensor `view` has of them.
    fn group(&self, view: &TensorView<'_>, groups: usize) -> Result<usize> {
        let in_features = self.size.in_features;
        if groups == 0 || !in_features.is_multiple_of(groups) {
            return Err(view.error(TensorError::Groups {
                groups,
                in_features,
            }));
        }
        Ok(in_features / groups)
    }

    /// The width of integer codes of which each row (or column) of `size` takes `words`: one of `likely` if that
    /// can be, else another. Only rows of a few weights leave a choice.
    fn int_bits(
        &self,
        codes: &TensorView<'_>,
        words: usize,
        size: usize,
        likely: &[IntBits],
    ) -> Result<IntBits> {
        const ALL: [IntBits; 4] = [IntBits::Four, IntBits::Eight, IntBits::Three, IntBits::Two];
        let mut candidates = likely.iter().chain(&ALL).copied();
        candidates
            .find(|&bits| pack::words(size, bits) == words)
            .ok_or_else(|| codes.error(TensorError::CodeWidth { words, codes: size }))
    }
}

/// Floating-point scales in the type they are stored in.
fn float_scales(view: &TensorView<'_>) -> Result<Scales> {
    let tensor = DenseTensor::from_view(view)?;
    tensor.check_finite()?;
    Ok(match tensor.data() {
        DenseData::F32(v) => Scales::F32((**v).as_ref().to_vec()),
        DenseData::F16(v) => Scales::F16((**v).as_ref().to_vec()),
        DenseData::Bf16(v) => Scales::Bf16((**v).as_ref().to_vec()),
    })
}

/// What a scale of one byte is.
#[derive(Clone, Copy, PartialEq)]
enum ByteScale {
    E4m3,
    E8m0,
}

/// Scales of a byte each, divided by `global`.
fn byte_scales(view: &TensorView<'_>, kind: ByteScale, global: f32) -> Result<Scales> {
    let bytes = view.bytes().to_vec();
    let nan = |&byte: &u8| match kind {
        ByteScale::E4m3 => e4m3::is_nan(byte),
        ByteScale::E8m0 => byte == 255,
    };
    if let Some(index) = bytes.iter().position(nan) {
        let value = f32::NAN;
        return Err(view.error(TensorError::NotFinite { index, value }));
    }
    Ok(match kind {
        ByteScale::E4m3 => Scales::E4m3 { bytes, global },
        ByteScale::E8m0 => Scales::E8m0 { bytes, global },
    })
}

/// Checks that `view` is of one of the types `allowed`, which messages call `expected`.
fn expect_dtype(view: &TensorView<'_>, allowed: &[Dtype], expected: &'static str) -> Result<()> {
    match view.dtype() {
        found if allowed.contains(&found) => Ok(()),
        found => Err(view.error(TensorError::Dtype { expected, found })),
    }
}

/// The words of a bit stream.
fn words(view: &TensorView<'_>) -> Result<crate::Shared<u32>> {
    expect_dtype(view, &[Dtype::I32, Dtype::U32], "I32")?;
    Ok(view.values(0..view.len()))
}

/// Zeros, or `None` if all of them are the middle code, which is what `None` means.
fn unless_middle(zeros: Vec<u8>, bits: IntBits) -> Option<Vec<u8>> {
    zeros
        .iter()
        .any(|&zero| zero != bits.middle())
        .then_some(zeros)
}

/// The two axes of `view`.
fn matrix_shape(view: &TensorView<'_>) -> Result<[usize; 2]> {
    <[usize; 2]>::try_from(view.shape()).map_err(|_| {
        let found = view.shape().to_vec();
        view.error(TensorError::Rank { expected: 2, found })
    })
}

/// What a signed zero point of `bits` may be.
fn signed_range(bits: IntBits) -> RangeInclusive<i16> {
    let middle = i16::from(bits.middle());
    -middle..=middle - 1
}
