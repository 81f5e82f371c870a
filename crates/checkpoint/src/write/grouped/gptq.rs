//! The layout of classic GPTQ, in its first version.

use serde_json::{Map, Value, json};
use treillage_gptq::{Element, GroupedLinear, Rotation, Scales, pack};

use super::{Dense, GroupedSettings, compressed::escaped, tensors::Leaves};
use crate::{
    Dtype, GptqVersion,
    write::part::{Bytes, OutTensor},
};

/// Both axes must be multiples of this: words hold whole codes then, whatever their width.
const WORD: usize = 32;

/// The tensors of `linear`.
pub(super) fn push<'a>(
    name: &str,
    linear: &'a GroupedLinear,
    out: &mut Vec<OutTensor<'a>>,
) -> Result<(), &'static str> {
    let parts = linear.parts();
    let (inputs, outputs) = (parts.in_features, parts.out_features);
    let (Element::Int(bits), Scales::F16(scales)) = (parts.element, &parts.scales) else {
        return Err("its scales are not in half precision");
    };
    if parts.rotation != Rotation::None {
        return Err("its inputs are rotated");
    }
    if !inputs.is_multiple_of(WORD) || !outputs.is_multiple_of(WORD) {
        return Err("its sizes are not multiples of 32");
    }
    let groups = linear.groups();
    let mut leaves = Leaves::of(name, out);
    leaves.bias(linear, Dtype::F16);
    let g_idx: Vec<i32> = (0..inputs).map(|i| (i / parts.group) as i32).collect();
    let bytes = Bytes::Owned(bytemuck::cast_slice(&g_idx).to_vec());
    leaves.push("g_idx", Dtype::I32, &[inputs], bytes);

    let mask = (bits.levels() - 1) as u8;
    let middle = || vec![bits.middle(); outputs * groups];
    let mut zeros = parts.zeros.clone().unwrap_or_else(middle);
    for zero in &mut zeros {
        // One less than the zero is stored; 0 wraps around.
        *zero = zero.wrapping_sub(1) & mask;
    }
    let zeros = pack::pack_rows(&pack::transpose(&zeros, groups), outputs, bits);
    leaves.words("qzeros", [groups, pack::words(outputs, bits)], zeros);

    let scales = pack::transpose(scales, groups);
    let bytes = Bytes::Owned(bytemuck::cast_slice(&scales).to_vec());
    leaves.push("scales", Dtype::F16, &[groups, outputs], bytes);

    let codes = pack::from_stored(&parts.codes, parts.element);
    let words = pack::pack_columns(&pack::transpose(&codes, inputs), outputs, bits);
    leaves.words("qweight", [pack::words(inputs, bits), outputs], words);
    Ok(())
}

/// `quantization_config`, which is also `quantize_config.json`.
pub(super) fn description(settings: &GroupedSettings, dense: &Dense) -> Value {
    // Modules that match a key with a minus are skipped.
    let mut skipped = Map::new();
    let suffixes = dense.suffixes.iter().filter(|suffix| *suffix != "lm_head");
    let patterns = suffixes.map(|suffix| format!("-:.*{}$", escaped(suffix)));
    let exact = dense.exact.iter().filter(|name| *name != "lm_head");
    let names = exact.map(|name| format!("-:^{}$", escaped(name)));
    for pattern in patterns.chain(names) {
        skipped.insert(pattern, json!({}));
    }
    json!({
        "quant_method": "gptq",
        "bits": settings.format.element().bits(),
        "group_size": settings.group.map_or(-1, |group| group as i64),
        "sym": settings.symmetric,
        "desc_act": false,
        "static_groups": settings.act_order,
        "true_sequential": true,
        "lm_head": dense.head_is_quantized,
        "checkpoint_format": GptqVersion::V1.name(),
        "pack_dtype": "int32",
        "damp_percent": damping(settings.damping),
        "dynamic": skipped,
        "meta": {"quantizer": [concat!("treillage:", env!("CARGO_PKG_VERSION"))]},
    })
}

/// The number as people wrote it: 0.01, not the nearest f32 in all its digits.
fn damping(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
