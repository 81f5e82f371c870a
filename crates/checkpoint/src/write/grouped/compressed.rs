//! The layout of compressed-tensors.

use serde_json::{Value, json};
use treillage_gptq::{Element, Format, GroupedLinear, IntBits, Rotation, Scales, pack};

use super::{Dense, GroupedSettings, tensors::Leaves};
use crate::{
    Dtype,
    write::part::{Bytes, OutTensor},
};

/// What compressed-tensors calls `format`, if it has it.
pub(super) fn layout(format: Format) -> Option<&'static str> {
    match format {
        Format::Int(IntBits::Four | IntBits::Eight) => Some("pack-quantized"),
        Format::NvFp4 => Some("nvfp4-pack-quantized"),
        Format::MxFp4 => Some("mxfp4-pack-quantized"),
        Format::Int(_) | Format::Fp4 => None,
    }
}

/// The tensors of `linear`.
pub(super) fn push<'a>(
    name: &str,
    linear: &'a GroupedLinear,
    symmetric: bool,
    out: &mut Vec<OutTensor<'a>>,
) -> Result<(), &'static str> {
    let parts = linear.parts();
    if parts.rotation != Rotation::None {
        return Err("its inputs are rotated");
    }
    let (inputs, outputs) = (parts.in_features, parts.out_features);
    let groups = [outputs, linear.groups()];
    let mut leaves = Leaves::of(name, out);
    let scale_dtype = match &parts.scales {
        Scales::F16(_) => Dtype::F16,
        Scales::F32(_) => Dtype::F32,
        _ => Dtype::Bf16,
    };
    leaves.bias(linear, scale_dtype);
    if let Element::Int(bits) = parts.element {
        let shape = [outputs, pack::words(inputs, bits)];
        // A stream of whole words is the same bytes as codes in memory.
        if (inputs * bits.get()).is_multiple_of(32) {
            let bytes = Bytes::Borrowed(&parts.codes[..]);
            leaves.push("weight_packed", Dtype::I32, &shape, bytes);
        } else {
            let codes = pack::from_stored(&parts.codes, parts.element);
            let words = pack::pack_rows(&codes, inputs, bits);
            leaves.words("weight_packed", shape, words);
        }
        if !symmetric {
            let middle = || vec![bits.middle(); groups[0] * groups[1]];
            let zeros = parts.zeros.clone().unwrap_or_else(middle);
            let words = pack::pack_columns(&zeros, groups[1], bits);
            let shape = [pack::words(outputs, bits), groups[1]];
            leaves.words("weight_zero_point", shape, words);
        }
        let shape = [outputs as i64, inputs as i64];
        let bytes = Bytes::Owned(bytemuck::cast_slice(&shape).to_vec());
        leaves.push("weight_shape", Dtype::I64, &[2], bytes);
    } else {
        let bytes = Bytes::Borrowed(&parts.codes[..]);
        leaves.push("weight_packed", Dtype::U8, &[outputs, inputs / 2], bytes);
    }
    let (dtype, bytes): (_, &[u8]) = match &parts.scales {
        Scales::F16(v) => (Dtype::F16, bytemuck::cast_slice(v)),
        Scales::Bf16(v) => (Dtype::Bf16, bytemuck::cast_slice(v)),
        Scales::F32(v) => (Dtype::F32, bytemuck::cast_slice(v)),
        Scales::E4m3 { bytes, global } => {
            leaves.factor("weight_global_scale", *global);
            (Dtype::F8E4m3, bytes)
        }
        Scales::E8m0 { global, .. } if *global != 1.0 => {
            return Err("its powers of two have a factor, for which this layout has no place");
        }
        Scales::E8m0 { bytes, .. } => (Dtype::U8, bytes),
    };
    leaves.push("weight_scale", dtype, &groups, Bytes::Borrowed(bytes));
    Ok(())
}

/// `quantization_config`.
pub(super) fn description(settings: &GroupedSettings, dense: &Dense) -> Value {
    let layout = layout(settings.format);
    let suffixes = dense.suffixes.iter().map(|suffix| match suffix.as_str() {
        head if !head.contains('.') => head.to_owned(),
        suffix => format!("re:.*{}$", escaped(suffix)),
    });
    let ignore: Vec<String> = suffixes.chain(dense.exact.iter().cloned()).collect();
    json!({
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": ignore,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "format": layout,
                "weights": weights(settings),
                "input_activations": null,
                "output_activations": null,
            }
        },
    })
}

/// What the weights are, as compressed-tensors describes them.
fn weights(settings: &GroupedSettings) -> Value {
    let mut weights = json!({
        "num_bits": settings.format.element().bits(),
        "type": "float",
        "strategy": "group",
        "group_size": settings.group,
        "symmetric": settings.symmetric,
        "dynamic": false,
        "actorder": null,
        "block_structure": null,
        "observer": "minmax",
        "observer_kwargs": {},
    });
    match settings.format {
        Format::NvFp4 => {
            weights["strategy"] = json!("tensor_group");
            weights["scale_dtype"] = json!("torch.float8_e4m3fn");
            weights["zp_dtype"] = json!("torch.float8_e4m3fn");
        }
        Format::MxFp4 => {
            weights["scale_dtype"] = json!("torch.uint8");
            weights["zp_dtype"] = json!("torch.uint8");
        }
        Format::Int(_) | Format::Fp4 => {
            weights["type"] = json!("int");
            if settings.group.is_none() {
                weights["strategy"] = json!("channel");
            } else if settings.act_order {
                weights["actorder"] = json!("static");
            }
        }
    }
    weights
}

/// `text` for a regular expression.
pub(super) fn escaped(text: &str) -> String {
    text.replace('.', r"\.")
}
