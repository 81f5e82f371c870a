//! Linears with a scale per group: what is written reads back the same, and what others write is read.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;
#[path = "common/grouped.rs"]
mod grouped;

use common::{Tensors, config, fixture, folder};
use grouped::{CASES, Case, LINEARS};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use treillage_checkpoint::{
    Checkpoint, Dtype, Export, GroupedWriter, Module, Quantization, StoredLinear,
};
use treillage_gptq::{Format, GroupedLinear, Rotation};

fn source() -> Checkpoint {
    Checkpoint::open(fixture()).unwrap()
}

#[test]
fn every_layout_reads_back_as_written() {
    for case in &CASES {
        let (_out, checkpoint) = case.written(&source());
        for (number, (name, shape)) in LINEARS.into_iter().enumerate() {
            let found = grouped::read(&checkpoint, name, shape);
            assert_eq!(found, case.linear(number), "{} {name}", case.name);
        }
        assert_eq!(
            checkpoint.quantization().unwrap().name(),
            case.export.name()
        );
        let [norm, router] = grouped::rest();
        let stored = checkpoint.tensor("model.norm.weight").unwrap();
        assert_eq!(
            (stored.dtype(), stored.bytes()),
            (Dtype::F32, norm.data().bytes())
        );
        let stored = checkpoint.tensor("model.layers.0.mlp.gate.weight").unwrap();
        assert_eq!(
            (stored.dtype(), stored.bytes()),
            (Dtype::F16, router.data().bytes())
        );
    }
}

/// The published layouts: every tensor's name, type and shape.
#[test]
fn tensors_are_those_of_the_layouts() {
    let q = LINEARS[0].0;
    for (name, expected) in [
        (
            "ct-int4-asymmetric",
            vec![
                ("weight_packed", "I32", vec![256, 16]),
                ("weight_scale", "BF16", vec![256, 4]),
                ("weight_shape", "I64", vec![2]),
                ("weight_zero_point", "I32", vec![32, 4]),
            ],
        ),
        (
            "ct-int4-channel",
            vec![
                ("weight_packed", "I32", vec![256, 16]),
                ("weight_scale", "BF16", vec![256, 1]),
                ("weight_shape", "I64", vec![2]),
            ],
        ),
        (
            "ct-nvfp4",
            vec![
                ("weight_global_scale", "F32", vec![1]),
                ("weight_packed", "U8", vec![256, 64]),
                ("weight_scale", "F8_E4M3", vec![256, 8]),
            ],
        ),
        (
            "ct-mxfp4",
            vec![
                ("bias", "BF16", vec![256]),
                ("weight_packed", "U8", vec![256, 64]),
                ("weight_scale", "U8", vec![256, 4]),
            ],
        ),
        (
            "fp_quant-nvfp4",
            vec![
                ("act_global_scale", "F32", vec![1]),
                ("backward_hadamard_matrix", "BF16", vec![64, 64]),
                ("bias", "BF16", vec![256]),
                ("forward_hadamard_matrix", "BF16", vec![64, 64]),
                ("qweight", "U8", vec![256, 64]),
                ("scales", "U8", vec![256, 8]),
                ("weight_global_scale", "F32", vec![1]),
            ],
        ),
        (
            "gptq-int3-asymmetric",
            vec![
                ("bias", "F16", vec![256]),
                ("g_idx", "I32", vec![128]),
                ("qweight", "I32", vec![12, 256]),
                ("qzeros", "I32", vec![4, 24]),
                ("scales", "F16", vec![4, 256]),
            ],
        ),
    ] {
        let case = Case::named(name);
        let (_out, checkpoint) = case.written(&source());
        let found: Vec<_> = checkpoint
            .tensors()
            .filter_map(|view| {
                let leaf = view.name().strip_prefix(q)?.strip_prefix('.')?;
                Some((leaf, view.dtype().name(), view.shape().to_vec()))
            })
            .collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn symmetric_zeros_of_gptq_are_the_well_known_words() {
    for (name, word) in [("gptq-int4", 0x7777_7777_u32), ("gptq-int2", 0x5555_5555)] {
        let case = Case::named(name);
        let (_out, checkpoint) = case.written(&source());
        let zeros = checkpoint
            .tensor(&format!("{}.qzeros", LINEARS[0].0))
            .unwrap();
        let words = zeros
            .bytes()
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()));
        let words: Vec<u32> = words.collect();
        assert!(words.iter().all(|&w| w == word), "{name}");
    }
}

/// A bias keeps its values whatever type a layout usually has for it.
#[test]
fn biases_are_exact() {
    let case = Case::named("gptq-int4");
    for (values, dtype) in [
        (vec![1.0 + 2f32.powi(-10), -0.5], Dtype::F16),
        (vec![2f32.powi(100), -0.5], Dtype::Bf16),
        (vec![2f32.powi(100), 1.0 + 2f32.powi(-20)], Dtype::F32),
    ] {
        let bias: Vec<f32> = values.iter().copied().cycle().take(256).collect();
        let mut parts = case.linear(0).into_parts();
        parts.bias = Some(bias);
        let linear = GroupedLinear::new(parts).unwrap();
        let out = tempfile::tempdir().unwrap();
        let writer =
            GroupedWriter::create_or_resume(out.path(), case.settings(), vec!["all".into()])
                .unwrap();
        let module = Module::Grouped {
            name: "a",
            linear: &linear,
            activation_scale: None,
        };
        writer.write_group("all", &[module]).unwrap();
        writer.finish(&source()).unwrap();
        let checkpoint = Checkpoint::open(out.path()).unwrap();
        assert_eq!(checkpoint.tensor("a.bias").unwrap().dtype(), dtype);
        assert_eq!(grouped::read(&checkpoint, "a", LINEARS[0].1), linear);
    }
}

/// GPTQ codes whose groups are not runs: stored as they stand, read sorted by group, the same values.
#[test]
fn a_group_index_becomes_an_order() {
    let (inputs, outputs) = (64, 32);
    let g_idx: Vec<i32> = (0..inputs as i32).map(|i| (i * 7 % 64) / 16).collect();
    let code = |output: usize, input: usize| ((output * 5 + input * 3) % 16) as u8;
    let zero = |output: usize, group: usize| ((output + group) % 16) as u8;
    let mut words = vec![0_u32; inputs / 8 * outputs];
    for input in 0..inputs {
        for output in 0..outputs {
            let word = &mut words[input / 8 * outputs + output];
            *word |= u32::from(code(output, input)) << (4 * (input % 8));
        }
    }
    let scales: Vec<f32> = (0..4 * outputs)
        .map(|i| (i % 13 + 1) as f32 / 16.0)
        .collect();
    for (version, offset) in [("gptq", 15), ("gptq_v2", 0)] {
        let mut zeros = vec![0_u32; 4 * outputs / 8];
        for group in 0..4 {
            for output in 0..outputs {
                let stored = (zero(output, group) + offset) & 15;
                zeros[group * outputs / 8 + output / 8] |= u32::from(stored) << (4 * (output % 8));
            }
        }
        let tensors = Tensors::new()
            .add(
                "a.qweight",
                "I32",
                &[inputs / 8, outputs],
                bytemuck::cast_slice(&words),
            )
            .add(
                "a.qzeros",
                "I32",
                &[4, outputs / 8],
                bytemuck::cast_slice(&zeros),
            )
            .f16("a.scales", &[4, outputs], &scales)
            .add("a.g_idx", "I32", &[inputs], bytemuck::cast_slice(&g_idx));
        let quantization = json!({
            "quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": true,
            "checkpoint_format": version,
        });
        let (_dir, checkpoint) = checkpoint(&tensors, &quantization);
        let linear = grouped::read(&checkpoint, "a", [inputs, outputs]);
        let order = linear.parts().order.as_ref().unwrap();
        let groups: Vec<_> = order.iter().map(|&input| g_idx[input as usize]).collect();
        assert!(groups.is_sorted(), "groups are runs");
        let stable = order
            .windows(2)
            .all(|pair| g_idx[pair[0] as usize] < g_idx[pair[1] as usize] || pair[0] < pair[1]);
        assert!(stable, "inputs of a group keep their order");
        let values = linear.dequantize();
        for output in 0..outputs {
            for input in 0..inputs {
                let group = g_idx[input] as usize;
                let difference = f32::from(code(output, input)) - f32::from(zero(output, group));
                let expected = difference * scales[group * outputs + output];
                assert_eq!(
                    values[output * inputs + input],
                    expected,
                    "{output} {input}"
                );
            }
        }
    }
}

fn checkpoint(tensors: &Tensors, quantization: &Value) -> (TempDir, Checkpoint) {
    let mut config = config();
    config["quantization_config"] = quantization.clone();
    let dir = folder(&[
        ("model.safetensors", &tensors.bytes()),
        ("config.json", config.to_string().as_bytes()),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

/// `weight_g_idx` of compressed-tensors; unused, it is −1 everywhere.
#[test]
fn compressed_tensors_may_have_a_group_index() {
    let codes = [0x7654_3210_u32, 0xFEDC_BA98];
    let tensors = |g_idx: &[i32]| {
        Tensors::new()
            .add(
                "a.weight_packed",
                "I32",
                &[2, 1],
                bytemuck::cast_slice(&codes),
            )
            .bf16(
                "a.weight_scale",
                &[2, 4],
                &[1.0, 2.0, 4.0, 8.0, 1.0, 1.0, 1.0, 1.0],
            )
            .add("a.weight_g_idx", "I32", &[8], bytemuck::cast_slice(g_idx))
    };
    let method = json!({"quant_method": "compressed-tensors", "format": "pack-quantized"});
    let (_dir, sorted) = checkpoint(&tensors(&[3, 3, 2, 2, 1, 1, 0, 0]), &method);
    let linear = grouped::read(&sorted, "a", [8, 2]);
    assert_eq!(
        linear.parts().order.as_deref().unwrap(),
        [6, 7, 4, 5, 2, 3, 0, 1]
    );
    assert_eq!(
        linear.dequantize()[..8],
        [-64.0, -56.0, -24.0, -20.0, -8.0, -6.0, -2.0, -1.0]
    );
    let (_dir, unused) = checkpoint(&tensors(&[-1; 8]), &method);
    let linear = grouped::read(&unused, "a", [8, 2]);
    assert_eq!(linear.parts().order, None);
    assert_eq!(linear.dequantize()[..4], [-8.0, -7.0, -12.0, -10.0]);
}

/// Weights that FP-Quant made floats again are rotated as their codes were.
#[test]
fn pseudo_quantized_weights_are_turned_back() {
    let case = Case::named("fp_quant-mxfp4");
    let linear = case.random(256, 16, Rotation::Block(128), 7);
    let mut rotated = Vec::new();
    let mut row = vec![0.0; 256];
    for output in 0..16 {
        linear.decode_row(output, &mut row);
        rotated.extend_from_slice(&row);
    }
    let sylvester: Vec<f32> = (0..128 * 128_usize)
        .map(|at| match ((at / 128) & (at % 128)).count_ones() % 2 {
            0 => 1.0 / 128_f32.sqrt(),
            _ => -1.0 / 128_f32.sqrt(),
        })
        .collect();
    let tensors = Tensors::new().f32("a.dqweight", &[16, 256], &rotated).bf16(
        "a.forward_hadamard_matrix",
        &[128, 128],
        &sylvester,
    );
    let quantization = json!({
        "quant_method": "fp_quant", "forward_dtype": "mxfp4", "pseudoquantization": true,
    });
    let (_dir, checkpoint) = checkpoint(&tensors, &quantization);
    assert!(checkpoint.has_linear("a"));
    let StoredLinear::Dense { weight, .. } = checkpoint.linear("a", 256, 16).unwrap() else {
        panic!("not dense");
    };
    for (found, expected) in weight.to_f32().iter().zip(linear.dequantize()) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the sizes: rows that end inside a word, and sizes at which copying and unpacking part ways.
    #[test]
    fn any_size_reads_back(
        number in 0..CASES.len(),
        rows in 1..40_usize,
        groups in 1..6_usize,
        width in 1..20_usize,
        seed: u64,
    ) {
        let mut case = CASES[number];
        let group = match case.format {
            Format::NvFp4 => 16,
            Format::MxFp4 => 32,
            _ => 2 * width,
        };
        // The layouts' own limits.
        let (rows, inputs) = match case.export {
            Export::Gptq => (32 * rows.div_ceil(8), (group * groups).next_multiple_of(32 * group)),
            Export::FpQuant => (rows, 128 * groups),
            Export::CompressedTensors => (rows, group * groups),
        };
        if case.group.is_some() {
            case.group = Some(group);
        }
        let linear = case.random(inputs, rows, Rotation::None, seed);
        let out = tempfile::tempdir().unwrap();
        let writer =
            GroupedWriter::create_or_resume(out.path(), case.settings(), vec!["all".into()]).unwrap();
        let activation_scale = case.activation_scale();
        writer.write_group("all", &[Module::Grouped { name: "a", linear: &linear, activation_scale }]).unwrap();
        writer.finish(&source()).unwrap();
        let checkpoint = Checkpoint::open(out.path()).unwrap();
        let found = match checkpoint.linear("a", inputs, rows).unwrap() {
            StoredLinear::Grouped(linear) => linear,
            _ => panic!("no groups"),
        };
        prop_assert_eq!(found.dequantize(), linear.dequantize());
        prop_assert_eq!(found.parts().group, linear.parts().group);
        if let Some(Quantization::CompressedTensors { bits }) = checkpoint.quantization() {
            let int = matches!(case.format, Format::Int(_));
            prop_assert_eq!(bits.len(), usize::from(int));
        }
    }
}
