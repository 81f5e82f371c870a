//! What a group-quantized checkpoint says about itself, and what it is not given to say.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;
#[path = "common/grouped.rs"]
mod grouped;

use std::{fs, path::Path};

use common::{Tensors, config, fixture, folder, message};
use grouped::{Case, LINEARS};
use half::f16;
use serde_json::{Value, json};
use treillage_checkpoint::{
    Checkpoint, DenseTensor, Dtype, Exl3Settings, Exl3Writer, Export, GroupedSettings,
    GroupedWriter, Module,
};
use treillage_gptq::{Format, GroupedLinear, IntBits, Parts, Rotation, Scales};

fn source() -> Checkpoint {
    Checkpoint::open(fixture()).unwrap()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn description(case: &str) -> Value {
    let case = Case::named(case);
    let (out, checkpoint) = case.written(&source());
    let config = json_of(&out.path().join("config.json"));
    let mut expected = checkpoint.raw_config().clone();
    expected
        .as_object_mut()
        .unwrap()
        .shift_remove("quantization_config");
    assert_eq!(&expected, source().raw_config(), "the rest is the source's");
    let beside = out.path().join("quantize_config.json");
    match case.export {
        Export::Gptq => assert_eq!(json_of(&beside), config["quantization_config"]),
        _ => assert!(!beside.exists()),
    }
    config["quantization_config"].clone()
}

#[test]
fn descriptions_are_what_loaders_look_for() {
    let weights = |num_bits: u8, kind: &str, strategy: &str, group: Value| {
        json!({
            "num_bits": num_bits, "type": kind, "strategy": strategy, "group_size": group, "symmetric": true,
            "dynamic": false, "actorder": null, "block_structure": null, "observer": "minmax",
            "observer_kwargs": {},
        })
    };
    let mut int4 = weights(4, "int", "group", json!(32));
    int4["actorder"] = json!("static");
    let mut nvfp4 = weights(4, "float", "tensor_group", json!(16));
    nvfp4["scale_dtype"] = json!("torch.float8_e4m3fn");
    nvfp4["zp_dtype"] = json!("torch.float8_e4m3fn");
    let mut mxfp4 = weights(4, "float", "group", json!(32));
    mxfp4["scale_dtype"] = json!("torch.uint8");
    mxfp4["zp_dtype"] = json!("torch.uint8");
    for (case, layout, weights) in [
        ("ct-int4", "pack-quantized", int4),
        (
            "ct-int4-channel",
            "pack-quantized",
            weights(4, "int", "channel", Value::Null),
        ),
        ("ct-nvfp4", "nvfp4-pack-quantized", nvfp4),
        ("ct-mxfp4", "mxfp4-pack-quantized", mxfp4),
    ] {
        assert_eq!(
            description(case),
            json!({
                "quant_method": "compressed-tensors",
                "format": layout,
                "quantization_status": "compressed",
                "global_compression_ratio": null,
                "kv_cache_scheme": null,
                "ignore": ["lm_head", r"re:.*mlp\.gate$"],
                "config_groups": {"group_0": {
                    "targets": ["Linear"], "format": layout, "weights": weights,
                    "input_activations": null, "output_activations": null,
                }},
            }),
            "{case}"
        );
    }
    assert_eq!(
        description("fp_quant-nvfp4"),
        json!({
            "quant_method": "fp_quant", "forward_dtype": "nvfp4", "forward_method": "abs_max",
            "backward_dtype": "bf16", "hadamard_group_size": 64, "store_master_weights": false,
            "pseudoquantization": false, "transform_init": "hadamard",
            "modules_to_not_convert": ["lm_head", "mlp.gate"],
        })
    );
    assert_eq!(
        description("gptq-int4-channel"),
        json!({
            "quant_method": "gptq", "bits": 4, "group_size": -1, "sym": true, "desc_act": false,
            "static_groups": true, "true_sequential": true, "lm_head": false,
            "checkpoint_format": "gptq", "pack_dtype": "int32", "damp_percent": 0.01,
            "dynamic": {r"-:.*mlp\.gate$": {}},
            "meta": {"quantizer": [format!("treillage:{}", env!("CARGO_PKG_VERSION"))]},
        })
    );
}

/// A quantized head is not ignored, other dense matrices are, a head of its own is not tied, and fields can be set.
#[test]
fn descriptions_follow_what_is_written() {
    let mut raw = config();
    raw["tie_word_embeddings"] = json!(true);
    let weights = Tensors::new().f32("norm.weight", &[1], &[1.0]);
    let dir = folder(&[
        ("model.safetensors", &weights.bytes()),
        ("config.json", raw.to_string().as_bytes()),
    ]);
    let source = Checkpoint::open(dir.path()).unwrap();
    let case = Case::named("ct-int4");
    for (export, ignored) in [
        (
            Export::CompressedTensors,
            json!([r"re:.*mlp\.gate$", "a.odd"]),
        ),
        (
            Export::Gptq,
            json!({r"-:.*mlp\.gate$": {}, r"-:^a\.odd$": {}}),
        ),
    ] {
        let case = Case {
            export,
            scale_type: treillage_gptq::ScaleType::F16,
            ..*case
        };
        let mut settings = case.settings();
        settings.config.insert("note".into(), json!("folded"));
        let out = tempfile::tempdir().unwrap();
        let writer =
            GroupedWriter::create_or_resume(out.path(), settings, vec!["all".into()]).unwrap();
        let linear = case.linear(0);
        let odd = DenseTensor::new("odd", [2, 2], vec![0.5; 4]).unwrap();
        let table = DenseTensor::new("model.embed_tokens.weight", [2, 2], vec![0.5; 4]).unwrap();
        let modules = [
            Module::Grouped {
                name: "lm_head",
                linear: &linear,
                activation_scale: None,
            },
            Module::Linear {
                name: "a.odd",
                weight: &odd,
                bias: Some(&odd),
            },
            Module::Tensor(&table),
        ];
        writer.write_group("all", &modules).unwrap();
        let block = writer.written("all", &source).unwrap();
        assert_eq!(grouped::read(&block, "lm_head", LINEARS[0].1), linear);
        writer.finish(&source).unwrap();
        let config = json_of(&out.path().join("config.json"));
        assert_eq!(config["tie_word_embeddings"], false);
        assert_eq!(config["note"], "folded");
        let described = &config["quantization_config"];
        match export {
            Export::Gptq => {
                assert_eq!(described["dynamic"], ignored);
                assert_eq!(described["lm_head"], true);
            }
            _ => assert_eq!(described["ignore"], ignored),
        }
        let written = Checkpoint::open(out.path()).unwrap();
        assert_eq!(written.tensor("a.odd.weight").unwrap().dtype(), Dtype::F32);
        assert!(written.contains("a.odd.bias"));
    }
}

#[test]
fn what_a_layout_has_no_place_for_is_not_written() {
    let create = |settings: GroupedSettings| {
        let out = tempfile::tempdir().unwrap();
        let writer = GroupedWriter::create_or_resume(out.path(), settings, vec!["all".into()]);
        message(writer.map(drop), out.path())
    };
    for (export, format, expected) in [
        (
            Export::CompressedTensors,
            Format::Int(IntBits::Three),
            "compressed-tensors has no int3",
        ),
        (
            Export::CompressedTensors,
            Format::Fp4,
            "compressed-tensors has no fp4",
        ),
        (
            Export::FpQuant,
            Format::Int(IntBits::Four),
            "fp_quant has no int4",
        ),
        (Export::Gptq, Format::NvFp4, "gptq has no nvfp4"),
    ] {
        let settings = GroupedSettings::new(export, format);
        assert_eq!(create(settings), format!("DIR: {expected}"));
        assert!(!export.holds(format));
    }
    let mut settings = GroupedSettings::new(Export::FpQuant, Format::MxFp4);
    settings.rotation = Some(16);
    assert_eq!(
        create(settings),
        "DIR: rotation matrices of 16: expected 16, 32, 64 or 128, at least 32"
    );
    assert_eq!(
        "awq".parse::<Export>().unwrap_err().to_string(),
        "unknown layout `awq`: expected compressed-tensors, fp_quant or gptq"
    );

    let case = |name: &str| *Case::named(name);
    type Change = fn(&mut Parts);
    let table: [(&str, Change, &str); 11] = [
        (
            "ct-int4",
            |p| p.rotation = Rotation::Block(16),
            "its inputs are rotated",
        ),
        (
            "ct-int4",
            |p| p.order = Some((0..p.in_features as u32).rev().collect()),
            "its groups are not runs of inputs",
        ),
        (
            "ct-int4",
            |p| p.zeros = Some(vec![3; p.scales.len()]),
            "it has zeros, and the checkpoint is symmetric",
        ),
        (
            "ct-int4",
            |p| {
                p.group = 64;
                p.scales = Scales::F32(vec![1.0; p.scales.len() / 2]);
            },
            "its groups are not of the checkpoint's size",
        ),
        (
            "ct-int4",
            |p| p.bias = Some(vec![f32::INFINITY; p.out_features]),
            "its bias is not a finite number everywhere",
        ),
        (
            "ct-mxfp4",
            |p| match &mut p.scales {
                Scales::E8m0 { global, .. } => *global = 3.0,
                _ => unreachable!(),
            },
            "its powers of two have a factor, for which this layout has no place",
        ),
        (
            "ct-nvfp4",
            |p| {
                p.scales = Scales::E8m0 {
                    bytes: vec![1; p.scales.len()],
                    global: 1.0,
                }
            },
            "its numbers are not those of the checkpoint's format",
        ),
        (
            "fp_quant-nvfp4",
            |p| p.rotation = Rotation::Block(128),
            "its rotation does not divide the checkpoint's",
        ),
        (
            "gptq-int4",
            |p| p.rotation = Rotation::Block(16),
            "its inputs are rotated",
        ),
        (
            "gptq-int4",
            |p| p.scales = Scales::F32(vec![1.0; p.scales.len()]),
            "its scales are not in half precision",
        ),
        (
            "gptq-int4",
            |p| {
                p.out_features = 250;
                p.codes.truncate(250 * 64);
                p.scales = Scales::F16(vec![f16::ONE; 250]);
                p.bias = None;
            },
            "its sizes are not multiples of 32",
        ),
    ];
    for (name, change, expected) in table {
        let case = case(name);
        let mut parts = case.linear(0).into_parts();
        change(&mut parts);
        let linear = GroupedLinear::new(parts).unwrap();
        assert_eq!(
            refused(&case, &linear, case.activation_scale()),
            format!(
                "DIR: linear `a` cannot be written as {}: {expected}",
                case.export
            )
        );
    }
    let nvfp4 = case("fp_quant-nvfp4");
    for (scale, expected) in [
        (None, "NVFP4 needs the factor of its activations"),
        (
            Some(0.0),
            "the factor of its activations is not a finite number above zero",
        ),
    ] {
        assert_eq!(
            refused(&nvfp4, &nvfp4.linear(0), scale),
            format!("DIR: linear `a` cannot be written as fp_quant: {expected}")
        );
    }
    let wide = case("fp_quant-mxfp4");
    let narrow = wide.random(96, 32, Rotation::None, 1);
    assert_eq!(
        refused(&wide, &narrow, None),
        "DIR: linear `a` cannot be written as fp_quant: the checkpoint's rotation does not divide its inputs"
    );

    let out = tempfile::tempdir().unwrap();
    let exl3 =
        Exl3Writer::create_or_resume(out.path(), Exl3Settings::default(), vec!["all".into()])
            .unwrap();
    let linear = case("ct-int4").linear(0);
    let module = Module::Grouped {
        name: "a",
        linear: &linear,
        activation_scale: None,
    };
    assert_eq!(
        message(exl3.write_group("all", &[module]), out.path()),
        "DIR: linear `a` has a scale per group, for which EXL3 has no place"
    );
}

fn refused(case: &Case, linear: &GroupedLinear, activation_scale: Option<f32>) -> String {
    let out = tempfile::tempdir().unwrap();
    let writer =
        GroupedWriter::create_or_resume(out.path(), case.settings(), vec!["all".into()]).unwrap();
    let module = Module::Grouped {
        name: "a",
        linear,
        activation_scale,
    };
    let result = writer.write_group("all", &[module]);
    assert_eq!(writer.pending().count(), 1, "nothing was written");
    message(result, out.path())
}
