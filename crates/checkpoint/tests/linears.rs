//! Every way a linear can be stored.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;

use std::fs;

use common::{Tensors, checkpoint, config, folder, message, ramp, shared, trellis};
use half::f16;
use serde_json::json;
use treillage_checkpoint::{Checkpoint, DenseTensor, Dtype, Safetensors, StoredLinear};
use treillage_trellis::Codebook;

fn dense(checkpoint: &Checkpoint, prefix: &str, shape: [usize; 2]) -> DenseTensor {
    match checkpoint.linear(prefix, shape[0], shape[1]).unwrap() {
        StoredLinear::Dense { weight, .. } => weight,
        _ => panic!("{prefix} is not dense"),
    }
}

#[test]
fn a_trellis_stays_in_the_mapped_file() {
    let shape = [256, 128];
    let tensors = Tensors::new().trellis("a", shape, 3).scales("a", shape);
    let (_dir, checkpoint) = checkpoint(&tensors);
    let packed = trellis(&checkpoint, "a", shape);
    let stored = checkpoint.tensor("a.trellis").unwrap();
    assert_eq!(stored.dtype(), Dtype::I16);
    // The header's length decides on alignment; whatever it is, the words are right.
    let words: Vec<u16> = stored
        .bytes()
        .chunks_exact(2)
        .map(|b| u16::from_le_bytes([b[0], b[1]]))
        .collect();
    assert_eq!(packed.words(), words);
    assert_eq!(packed.bits().get(), 3);
    assert_eq!(packed.suh()[9], f16::from_f32(0.25));
    assert!(packed.bias().is_none());
}

#[test]
fn words_are_copied_only_when_misaligned() {
    let shape = [128, 128];
    for (padding, in_place) in [(0, true), (1, false)] {
        let tensors = Tensors::new().trellis("a", shape, 2).scales("a", shape);
        let bytes = tensors.bytes();
        // Spaces behind the header move the data by one byte.
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
        let spaces = " ".repeat(length % 2 + padding);
        let bytes = common::raw(&format!("{header}{spaces}"), &bytes[8 + length..]);
        let dir = folder(&[("model.safetensors", &bytes)]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let packed = trellis(&checkpoint, "a", shape);
        let stored = checkpoint.tensor("a.trellis").unwrap().bytes();
        assert_eq!(packed.words().as_ptr().cast() == stored.as_ptr(), in_place);
        let words: Vec<u8> = bytemuck::cast_slice(packed.words()).to_vec();
        assert_eq!(words, stored);
    }
}

#[test]
fn flags_choose_the_codebook() {
    let shape = [128, 128];
    let mut tensors = Tensors::new();
    for prefix in ["none", "mcg", "mul1"] {
        tensors = tensors.trellis(prefix, shape, 2).scales(prefix, shape);
    }
    let (_dir, checkpoint) = checkpoint(&tensors.flag("mcg.mcg").flag("mul1.mul1"));
    for (prefix, codebook) in [
        ("none", Codebook::ThreeInst),
        ("mcg", Codebook::Mcg),
        ("mul1", Codebook::Mul1),
    ] {
        assert_eq!(trellis(&checkpoint, prefix, shape).codebook(), codebook);
    }
}

#[test]
fn sign_bits_stand_in_for_scales_and_scales_win() {
    let shape = [128, 256];
    let words = |n: usize| vec![0b101_u16; n / 16];
    let (_dir, checkpoint) = checkpoint(
        &Tensors::new()
            .trellis("old", shape, 2)
            .i16("old.su", &[8], &words(128))
            .i16("old.sv", &[16], &words(256))
            .trellis("both", shape, 2)
            .i16("both.su", &[8], &words(128))
            .i16("both.sv", &[16], &words(256))
            .scales("both", shape),
    );
    let old = trellis(&checkpoint, "old", shape);
    assert_eq!(
        &old.suh()[14..20],
        [1.0, 1.0, -1.0, 1.0, -1.0, 1.0].map(f16::from_f32)
    );
    assert_eq!(old.svh().len(), 256);
    let both = trellis(&checkpoint, "both", shape);
    assert_eq!(both.suh()[9], f16::from_f32(0.25));
}

#[test]
fn biases_may_be_in_any_float() {
    let shape = [128, 128];
    let values = ramp(128);
    let mut tensors = Tensors::new();
    for prefix in ["f16", "f32", "bf16"] {
        tensors = tensors.trellis(prefix, shape, 1).scales(prefix, shape);
    }
    let (_dir, checkpoint) = checkpoint(
        &tensors
            .f16("f16.bias", &[128], &values)
            .f32("f32.bias", &[128], &values)
            .bf16("bf16.bias", &[128], &values)
            .f16("kept.weight", &[2, 128], &ramp(256))
            .f16("kept.bias", &[2], &[0.5, -1.0]),
    );
    for prefix in ["f16", "f32", "bf16"] {
        let bias = trellis(&checkpoint, prefix, shape).bias().unwrap().to_vec();
        assert_eq!(
            bias[..20],
            values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>()[..20]
        );
    }
    let StoredLinear::Dense { bias, .. } = checkpoint.linear("kept", 128, 2).unwrap() else {
        panic!("kept at 16 bits");
    };
    assert_eq!(bias, Some(vec![0.5, -1.0]));
}

#[test]
fn padding_is_kept_in_a_trellis_and_cut_from_a_dense_weight() {
    let (_dir, checkpoint) = checkpoint(
        &Tensors::new()
            .trellis("packed", [128, 256], 2)
            .scales("packed", [128, 256])
            .f32("dense.weight", &[256, 128], &ramp(256 * 128)),
    );
    let packed = trellis(&checkpoint, "packed", [100, 130]);
    assert_eq!((packed.in_features(), packed.out_features()), (128, 256));
    let weight = dense(&checkpoint, "dense", [100, 130]);
    assert_eq!(weight.shape(), [130, 100]);
    let (all, cut) = (ramp(256 * 128), weight.to_f32());
    for (r, c) in [(0, 0), (0, 99), (1, 0), (129, 99)] {
        assert_eq!(cut[r * 100 + c], all[r * 128 + c]);
    }
}

#[test]
fn fused_experts_answer_for_each_expert() {
    let (experts, hidden, width) = (3, 4, 2);
    let prefix = "model.layers.0.mlp.experts";
    let gate_up = ramp(experts * 2 * width * hidden);
    let down = ramp(experts * hidden * width);
    let (_dir, checkpoint) = checkpoint(
        &Tensors::new()
            .bf16(
                &format!("{prefix}.gate_up_proj"),
                &[experts, 2 * width, hidden],
                &gate_up,
            )
            .bf16(
                &format!("{prefix}.down_proj"),
                &[experts, hidden, width],
                &down,
            ),
    );
    for expert in 0..experts {
        let part = |all: &[f32], piece: usize| all[piece * 8..(piece + 1) * 8].to_vec();
        for (projection, expected, shape) in [
            ("gate_proj", part(&gate_up, 2 * expert), [hidden, width]),
            ("up_proj", part(&gate_up, 2 * expert + 1), [hidden, width]),
            ("down_proj", part(&down, expert), [width, hidden]),
        ] {
            let name = format!("{prefix}.{expert}.{projection}");
            assert!(checkpoint.has_linear(&name));
            let weight = dense(&checkpoint, &name, shape);
            assert_eq!(weight.name(), format!("{name}.weight"));
            assert_eq!(weight.to_f32(), expected, "{name}");
        }
    }
    assert!(!checkpoint.has_linear(&format!("{prefix}.x.gate_proj")));
    assert!(!checkpoint.has_linear("model.layers.1.mlp.experts.0.gate_proj"));
}

/// FP8 codes of 1.0, -2.0, 0.5 and 448.
const CODES: [(u8, f32); 4] = [(0x38, 1.0), (0xC0, -2.0), (0x30, 0.5), (0x7E, 448.0)];

#[test]
fn fp8_is_scaled_by_block_row_or_tensor() {
    // Blocks of 128: the last ones are 2 rows high and 44 columns wide.
    let (rows, cols) = (130, 300);
    let code = |r: usize, c: usize| CODES[(r * 7 + c) % 4];
    let cells = || (0..rows).flat_map(move |r| (0..cols).map(move |c| (r, c)));
    let codes: Vec<u8> = cells().map(|(r, c)| code(r, c).0).collect();
    let by_block = [1.0, 2.0, 4.0, 0.5, 0.25, 0.125];
    let by_row: Vec<f32> = (0..rows).map(|r| (1 + r % 3) as f32).collect();
    let mut tensors = Tensors::new();
    for name in ["block", "row", "column", "tensor", "inverse"] {
        tensors = tensors.add(&format!("{name}.weight"), "F8_E4M3", &[rows, cols], &codes);
    }
    let bytes = tensors
        .f32("block.weight_scale_inv", &[2, 3], &by_block)
        .f32("row.weight_scale", &[rows], &by_row)
        .bf16("column.weight_scale", &[rows, 1], &by_row)
        .f32("tensor.weight_scale", &[], &[0.5])
        .f32("inverse.weight_scale_inv", &[1], &[0.25])
        .bytes();
    let mut config = config();
    config["quantization_config"] =
        json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]});
    let dir = folder(&[
        ("model.safetensors", &bytes),
        ("config.json", config.to_string().as_bytes()),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    type Scale<'a> = &'a dyn Fn(usize, usize) -> f32;
    let scales: [(&str, Scale<'_>); 5] = [
        ("block", &|r, c| by_block[r / 128 * 3 + c / 128]),
        ("row", &|r, _| by_row[r]),
        ("column", &|r, _| by_row[r]),
        ("tensor", &|_, _| 0.5),
        ("inverse", &|_, _| 0.25),
    ];
    for (name, scale) in scales {
        let weight = dense(&checkpoint, name, [cols, rows]);
        assert_eq!(weight.data().dtype(), Dtype::Bf16);
        let expected: Vec<f32> = cells().map(|(r, c)| code(r, c).1 * scale(r, c)).collect();
        assert_eq!(weight.to_f32(), expected, "{name}");
        weight.check_finite().unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() {
    let shape = [128, 128];
    let good = |prefix| {
        Tensors::new()
            .trellis(prefix, shape, 2)
            .scales(prefix, shape)
    };
    let cases = [
        (Tensors::new(), "DIR: no tensor `a.weight`"),
        (
            Tensors::new().trellis("a", shape, 2),
            "DIR: no tensor `a.suh`",
        ),
        (
            good("a").flag("a.mcg").flag("a.mul1"),
            "model.safetensors: tensor `a.trellis`: both codebook flags, mcg and mul1, are present",
        ),
        (
            Tensors::new()
                .trellis("a", [128, 256], 2)
                .scales("a", [128, 256]),
            "model.safetensors: tensor `a.trellis`: shape [8, 16, 32], expected [8, 8, 32]",
        ),
        (
            Tensors::new()
                .i16("a.trellis", &[8, 8, 20], &[0; 1280])
                .scales("a", shape),
            "model.safetensors: tensor `a.trellis`: trellis words per tile: expected 32, found 20",
        ),
        (
            Tensors::new()
                .i16("a.trellis", &[8, 8, 144], &[0; 9216])
                .scales("a", shape),
            "model.safetensors: tensor `a.trellis`: 9 bits per weight: the trellis format has 1 to 8",
        ),
        (
            Tensors::new()
                .i16("a.trellis", &[8, 8, 0], &[])
                .scales("a", shape),
            "model.safetensors: tensor `a.trellis`: 0 bits per weight: the trellis format has 1 to 8",
        ),
        (
            Tensors::new()
                .i16("a.trellis", &[64, 32], &[0; 2048])
                .scales("a", shape),
            "model.safetensors: tensor `a.trellis`: shape [64, 32], expected 3 axes",
        ),
        (
            Tensors::new()
                .f16("a.trellis", &[8, 8, 32], &[0.0; 2048])
                .scales("a", shape),
            "model.safetensors: tensor `a.trellis`: dtype F16, expected I16",
        ),
        (
            Tensors::new().trellis("a", shape, 2).scales("a", [128, 64]),
            "model.safetensors: tensor `a.svh`: shape [64], expected [128]",
        ),
        (
            Tensors::new()
                .trellis("a", shape, 2)
                .f16("a.svh", &[128], &[f32::NAN; 128])
                .f16("a.suh", &[128], &[1.0; 128]),
            "model.safetensors: tensor `a.svh`: element 0 is NaN",
        ),
        (
            good("a").f16("a.bias", &[7], &[0.0; 7]),
            "model.safetensors: tensor `a.bias`: shape [7], expected [128]",
        ),
        (
            Tensors::new().f16("a.weight", &[128, 64], &[0.0; 8192]),
            "model.safetensors: tensor `a.weight`: shape [128, 64], expected [128, 128]",
        ),
        (
            Tensors::new().i16("a.weight", &[128, 128], &[0; 16384]),
            "model.safetensors: tensor `a.weight`: dtype I16, expected F32, F16 or BF16",
        ),
        (
            Tensors::new().add("a.weight", "F8_E4M3", &[128, 128], &[0; 16384]),
            "DIR: no tensor `a.weight_scale`",
        ),
        (
            Tensors::new()
                .add("a.weight", "F8_E4M3", &[128, 128], &[0; 16384])
                .f32("a.weight_scale_inv", &[2, 2], &[1.0; 4]),
            "model.safetensors: tensor `a.weight_scale_inv`: block scales need \
             `quantization_config.weight_block_size` in config.json to be two positive numbers",
        ),
        (
            Tensors::new()
                .add("a.weight", "F8_E4M3", &[128, 128], &[0; 16384])
                .f32("a.weight_scale", &[64], &[1.0; 64]),
            "model.safetensors: tensor `a.weight_scale`: shape [64], expected [128]",
        ),
    ];
    for (tensors, expected) in cases {
        let (dir, checkpoint) = checkpoint(&tensors);
        let result = checkpoint.linear("a", 128, 128);
        assert_eq!(message(result, dir.path()), expected);
    }
}

#[test]
fn fused_experts_of_another_layout_are_refused() {
    let fused = "model.layers.0.mlp.experts.gate_up_proj";
    let linear = |tensors: &Tensors, expert: usize| {
        let (dir, checkpoint) = checkpoint(tensors);
        let prefix = format!("model.layers.0.mlp.experts.{expert}.up_proj");
        message(checkpoint.linear(&prefix, 4, 2), dir.path())
    };
    let transposed = Tensors::new().f32(fused, &[2, 6, 2], &[0.0; 24]);
    assert_eq!(
        linear(&transposed, 0),
        format!("model.safetensors: tensor `{fused}`: shape [2, 6, 2], expected [2, 4, 4]")
    );
    let good = Tensors::new().f32(fused, &[2, 4, 4], &[0.0; 32]);
    assert_eq!(
        linear(&good, 2),
        format!("model.safetensors: tensor `{fused}`: holds 2 experts, not one numbered 2")
    );
    let flat = Tensors::new().f32(fused, &[8, 4], &[0.0; 32]);
    assert_eq!(
        linear(&flat, 0),
        format!("model.safetensors: tensor `{fused}`: shape [8, 4], expected 3 axes")
    );
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let mut values = ramp(12);
    values[7] = f32::INFINITY;
    let (dir, checkpoint) = checkpoint(&Tensors::new().bf16("a.weight", &[3, 4], &values));
    let weight = dense(&checkpoint, "a", [4, 3]);
    assert_eq!(
        message(weight.check_finite(), dir.path()),
        "model.safetensors: tensor `a.weight`: element 7 is inf"
    );
    let computed = DenseTensor::new("b", [2], vec![0.0, f32::NAN]).unwrap();
    assert_eq!(
        computed.check_finite().unwrap_err().to_string(),
        "in memory: tensor `b`: element 1 is NaN"
    );
}

/// Linears that another program wrote: what is read decodes to the values and products it computed.
#[test]
fn golden_linears_are_read_bit_for_bit() {
    for (file, shape) in [
        ("golden/exl3_linear.safetensors", [256, 128]),
        ("golden/exl3_linear_legacy.safetensors", [128, 256]),
    ] {
        let Some(path) = shared(file) else { continue };
        let dir = folder(&[("model.safetensors", &fs::read(&path).unwrap())]);
        let golden = Checkpoint::open(dir.path()).unwrap();
        let file = Safetensors::open(&path).unwrap();
        let mut compared = 0;
        for prefix in file
            .header()
            .names()
            .filter_map(|n| n.strip_suffix(".inner"))
        {
            let packed = trellis(&golden, prefix, shape);
            let codebook = prefix.split('.').next().unwrap();
            assert_eq!(packed.codebook().name(), codebook, "{prefix}");

            let inner = golden.dense(&format!("{prefix}.inner")).unwrap().to_f32();
            let decoded = packed.decode_inner();
            for (i, value) in inner.iter().enumerate() {
                let cell = (i / shape[1], i % shape[1]);
                assert_eq!(
                    decoded[cell].to_bits(),
                    value.to_bits(),
                    "{prefix} {cell:?}"
                );
            }

            let [x, y] =
                ["x", "y"].map(|n| golden.dense(&format!("{prefix}.{n}")).unwrap().to_f32());
            let weights = packed.dequantize();
            for (i, expected) in y.iter().enumerate() {
                let (row, n) = (&x[i / shape[1] * shape[0]..][..shape[0]], i % shape[1]);
                let products = row
                    .iter()
                    .enumerate()
                    .map(|(k, x)| f64::from(x * weights[(k, n)]));
                let bias = packed.bias().map_or(0.0, |bias| bias[n].to_f64());
                let sum = products.sum::<f64>() + bias;
                let scale = 1e-4 * (1.0 + f64::from(expected.abs()));
                assert!(
                    (sum - f64::from(*expected)).abs() < scale,
                    "{prefix} y[{i}]"
                );
            }
            compared += 1;
        }
        assert!(compared >= 9, "{compared} linears");
    }
}
