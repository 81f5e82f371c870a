//! The layout of FP-Quant.

use half::bf16;
use serde_json::{Value, json};
use treillage_gptq::{Format, GroupedLinear, Rotation, Scales};

use super::{Dense, GroupedSettings, tensors::Leaves};
use crate::{
    Dtype,
    write::part::{Bytes, OutTensor},
};

/// The factor that FP-Quant's kernels give MXFP4 activations, whose powers of two never clip.
const MXFP4_ACTIVATIONS: f32 = 3.0;

/// What FP-Quant calls `format`, if it has it.
pub(super) fn dtype(format: Format) -> Option<&'static str> {
    match format {
        Format::NvFp4 => Some("nvfp4"),
        Format::MxFp4 => Some("mxfp4"),
        Format::Int(_) | Format::Fp4 => None,
    }
}

impl GroupedSettings {
    /// The size of rotation matrices.
    pub(super) fn rotation_size(&self) -> usize {
        self.rotation.unwrap_or(self.format.default_group())
    }
}

/// The tensors of `linear`. All matrices have the size that the checkpoint names, `size`: of a linear that is rotated
/// in smaller blocks, several of those; of one that is not rotated, the identity.
pub(super) fn push<'a>(
    name: &str,
    linear: &'a GroupedLinear,
    activation_scale: Option<f32>,
    size: usize,
    out: &mut Vec<OutTensor<'a>>,
) -> Result<(), &'static str> {
    let parts = linear.parts();
    let (inputs, outputs) = (parts.in_features, parts.out_features);
    let (scales, global, activations) = match &parts.scales {
        Scales::E4m3 { bytes, global } => (bytes, *global, activation_scale),
        Scales::E8m0 { bytes, global } => {
            let usual = Some(MXFP4_ACTIVATIONS);
            (bytes, *global, activation_scale.or(usual))
        }
        _ => return Err("its scales are not of a byte each"),
    };
    let activations = match activations {
        Some(factor) if factor.is_finite() && factor > 0.0 => factor,
        Some(_) => return Err("the factor of its activations is not a finite number above zero"),
        None => return Err("NVFP4 needs the factor of its activations"),
    };
    if !inputs.is_multiple_of(size) {
        return Err("the checkpoint's rotation does not divide its inputs");
    }
    let block = match parts.rotation {
        Rotation::None => 1,
        Rotation::Block(block) if size.is_multiple_of(block) => block,
        Rotation::Block(_) => return Err("its rotation does not divide the checkpoint's"),
    };
    let matrix = hadamard_blocks(block, size);
    let mut leaves = Leaves::of(name, out);
    leaves.bias(linear, Dtype::Bf16);
    for leaf in ["forward_hadamard_matrix", "backward_hadamard_matrix"] {
        let bytes = Bytes::Owned(bytemuck::cast_slice(&matrix).to_vec());
        leaves.push(leaf, Dtype::Bf16, &[size, size], bytes);
    }
    leaves.factor("act_global_scale", activations);
    leaves.factor("weight_global_scale", global);
    let shape = [outputs, linear.groups()];
    leaves.push("scales", Dtype::U8, &shape, Bytes::Borrowed(scales));
    let codes = Bytes::Borrowed(&parts.codes[..]);
    leaves.push("qweight", Dtype::U8, &[outputs, inputs / 2], codes);
    Ok(())
}

/// Hadamard matrices of `block` in Sylvester's order, over their norm, along the diagonal of a matrix of `size`.
fn hadamard_blocks(block: usize, size: usize) -> Vec<bf16> {
    let magnitude = 1.0 / (block as f32).sqrt();
    let entry = |at: usize| {
        let (row, column) = (at / size, at % size);
        if row / block != column / block {
            return 0.0;
        }
        match ((row % block) & (column % block)).count_ones() % 2 {
            0 => magnitude,
            _ => -magnitude,
        }
    };
    let entries = 0..size * size;
    entries.map(|at| bf16::from_f32(entry(at))).collect()
}

/// `quantization_config`.
pub(super) fn description(settings: &GroupedSettings, dense: &Dense) -> Value {
    let kept: Vec<&String> = dense.suffixes.iter().chain(&dense.exact).collect();
    json!({
        "quant_method": "fp_quant",
        "forward_dtype": dtype(settings.format),
        "forward_method": "abs_max",
        "backward_dtype": "bf16",
        "hadamard_group_size": settings.rotation_size(),
        "store_master_weights": false,
        "pseudoquantization": false,
        "transform_init": "hadamard",
        "modules_to_not_convert": kept,
    })
}
