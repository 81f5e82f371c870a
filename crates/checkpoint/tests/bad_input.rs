//! What is wrong with a folder is said in one line that names the file and the reason.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;

use std::fs;

use common::{Tensors, checkpoint, config, folder, message, raw};
use serde_json::{Value, json};
use treillage_checkpoint::{Checkpoint, Safetensors};

fn open_file(bytes: &[u8]) -> String {
    let dir = folder(&[("model.safetensors", bytes)]);
    message(
        Safetensors::open(dir.path().join("model.safetensors")),
        dir.path(),
    )
}

#[test]
fn headers_that_lie() {
    let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let two = |a: &str, b: &str| format!(r#"{{"a":{{{a}}},"b":{{{b}}}}}"#);
    let f32 =
        |begin, end, n| format!(r#""dtype":"F32","shape":[{n}],"data_offsets":[{begin},{end}]"#);
    let huge = [&u64::MAX.to_le_bytes()[..], one.as_bytes()].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "0 bytes are too few for a safetensors file"),
        (vec![1; 7], "7 bytes are too few for a safetensors file"),
        (
            huge,
            "the header claims 18446744073709551615 bytes, more than the 100000000 that the format allows",
        ),
        (
            raw(one, &[])[..30].to_vec(),
            "the header claims 54 bytes but only 22 follow: truncated, or not safetensors",
        ),
        (
            raw("", &[]),
            "the header is not valid: EOF while parsing a value",
        ),
        (
            raw("[]", &[]),
            "the header is not valid: invalid type: sequence, expected a map from tensor names to their descriptions",
        ),
        (
            raw(&one[..40], &[]),
            "the header is not valid: tensor `a`: EOF while parsing a string",
        ),
        (
            raw(one, &[0; 7]),
            "tensor `a` ends at byte 8 of the data but the file holds 7: truncated?",
        ),
        (
            raw(one, &[0; 9]),
            "1 bytes before byte 9 of the data belong to no tensor",
        ),
        (
            raw(&two(&f32(0, 8, 2), &f32(4, 12, 2)), &[0; 12]),
            "tensor `b` overlaps the one stored before it",
        ),
        (
            raw(&two(&f32(0, 8, 2), &f32(12, 16, 1)), &[0; 16]),
            "4 bytes before byte 12 of the data belong to no tensor",
        ),
        (
            raw(&two(&f32(8, 0, 2), &f32(0, 8, 2)), &[0; 8]),
            "tensor `a`: offsets [8, 0] run backwards",
        ),
        (
            raw(&one.replace("[2]", "[3]"), &[0; 8]),
            "tensor `a`: F32 [3] does not take the 8 bytes of its offsets",
        ),
        (
            raw(&one.replace("[2]", "[4294967296,4294967296,16]"), &[0; 8]),
            "tensor `a`: F32 [4294967296, 4294967296, 16] does not take the 8 bytes of its offsets",
        ),
        (
            raw(&one.replace("F32", "F4").replace("[2]", "[15]"), &[0; 8]),
            "tensor `a`: F4 [15] does not take the 8 bytes of its offsets",
        ),
        (
            raw(&one.replace("F32", "F33"), &[0; 8]),
            "the header is not valid: tensor `a`: unknown dtype `F33`",
        ),
        (
            raw(&one.replace("[2]", "[-2]"), &[0; 8]),
            "the header is not valid: tensor `a`: invalid value: integer `-2`, expected usize",
        ),
        (
            raw(&one.replace("[2]", "[1,1,1,1,1,1,1,1,2]"), &[0; 8]),
            "the header is not valid: tensor `a`: invalid length 9, expected a shape of at most 8 axes",
        ),
        (
            raw(&one.replace(r#""shape":[2],"#, ""), &[0; 8]),
            "the header is not valid: tensor `a`: missing field `shape`",
        ),
        (
            raw(
                &two(&f32(0, 8, 2), &f32(8, 16, 2)).replace(r#""b""#, r#""a""#),
                &[0; 16],
            ),
            "tensor `a` is listed twice",
        ),
        (
            raw(&one.replace(r#""a""#, r#""a\nb""#), &[0; 8]),
            r"the header is not valid: tensor `a\nb`: not a usable name",
        ),
        (
            raw(r#"{"__metadata__":{"format":1}}"#, &[]),
            "the header is not valid: invalid type: integer `1`, expected a string",
        ),
    ];
    for (bytes, expected) in cases {
        let found = open_file(&bytes);
        // Where exactly the JSON parser noticed is its own affair.
        let found = found.split(" at line 1 column ").next().unwrap();
        assert_eq!(found, format!("model.safetensors: {expected}"));
    }
}

fn open(files: &[(&str, &[u8])]) -> String {
    let dir = folder(files);
    message(Checkpoint::open(dir.path()), dir.path())
}

#[test]
fn folders_that_are_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        message(Checkpoint::open(dir.path()), dir.path()),
        "cannot read config.json: No such file or directory (os error 2)"
    );
    let absent = dir.path().join("absent");
    assert_eq!(
        message(Checkpoint::open(&absent), &absent),
        "cannot read config.json: No such file or directory (os error 2)"
    );
    assert_eq!(open(&[]), "DIR: no .safetensors file");
    let dir = folder(&[]);
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert_eq!(
        message(Checkpoint::open(dir.path()), dir.path()),
        "cannot read model.safetensors: not a regular file"
    );
}

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn shards_that_do_not_fit_together() {
    let a = Tensors::new().f32("a", &[1], &[1.0]).bytes();
    let b = Tensors::new().f32("b", &[1], &[2.0]).bytes();
    assert_eq!(
        open(&[("1.safetensors", &a), ("2.safetensors", &a)]),
        "DIR: tensor `a` is listed twice"
    );
    let index = |map: Value| json!({"metadata": {}, "weight_map": map}).to_string();
    let with_index = |index: &str| {
        open(&[
            ("1.safetensors", &a),
            ("2.safetensors", &b),
            (INDEX, index.as_bytes()),
        ])
    };
    for (index, expected) in [
        (
            "{".to_owned(),
            "not a valid index: EOF while parsing an object at line 1 column 1",
        ),
        (
            "{}".to_owned(),
            "not a valid index: missing field `weight_map` at line 1 column 2",
        ),
        (index(json!({})), "no .safetensors file"),
        (
            index(json!({"a": "3.safetensors"})),
            "shard `3.safetensors` is missing",
        ),
        (
            index(json!({"a": "2.safetensors"})),
            "tensor `a` is not in shard `2.safetensors` where the index says it is",
        ),
        (
            index(json!({"a": "1.safetensors", "c": "1.safetensors"})),
            "tensor `c` is not in shard `1.safetensors` where the index says it is",
        ),
        (
            index(json!({"a": "../1.safetensors"})),
            "shard `../1.safetensors` is not a file name",
        ),
        (
            index(json!({"a": "/etc/passwd"})),
            "shard `/etc/passwd` is not a file name",
        ),
        (index(json!({"a": ".."})), "shard `..` is not a file name"),
        (
            r#"{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}"#.to_owned(),
            "tensor `a` is listed twice",
        ),
    ] {
        assert_eq!(with_index(&index), format!("{INDEX}: {expected}"));
    }
}

#[test]
fn shards_open_with_an_index_and_without() {
    let a = Tensors::new()
        .f32("a", &[1], &[1.0])
        .f32("c", &[1], &[3.0])
        .bytes();
    let b = Tensors::new().f32("b", &[1], &[2.0]).bytes();
    let map = json!({"weight_map": {"b": "2.safetensors", "a": "1.safetensors"}}).to_string();
    let shards: [(&str, &[u8]); 2] = [("1.safetensors", &a), ("2.safetensors", &b)];
    let dir = folder(&shards);
    let all = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(all.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    // What an index does not list is not part of the checkpoint.
    fs::write(dir.path().join(INDEX), map).unwrap();
    let listed = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(listed.names().collect::<Vec<_>>(), ["a", "b"]);
    // Nor is what stands beside the one file of a checkpoint without an index.
    let single = folder(&[shards[0], ("model.safetensors", &b)]);
    let single = Checkpoint::open(single.path()).unwrap();
    assert_eq!(single.names().collect::<Vec<_>>(), ["b"]);
    for (name, value) in [("a", 1.0), ("b", 2.0)] {
        assert_eq!(listed.vector(name, 1).unwrap(), [value]);
    }
    assert_eq!(
        message(listed.vector("c", 1), dir.path()),
        "DIR: no tensor `c`"
    );
    assert_eq!(
        message(listed.vector("a", 2), dir.path()),
        "1.safetensors: tensor `a`: shape [1], expected [2]"
    );
}

#[test]
fn configs_that_cannot_be_used() {
    let weights = Tensors::new().f32("a", &[1], &[1.0]).bytes();
    let open = |config: &str| {
        open(&[
            ("model.safetensors", &weights),
            ("config.json", config.as_bytes()),
        ])
    };
    let with = |field: &str, value: Value| {
        let mut config = config();
        config[field] = value;
        open(&config.to_string())
    };
    let without = |field: &str| {
        let mut config = config();
        config.as_object_mut().unwrap().remove(field).unwrap();
        open(&config.to_string())
    };
    assert_eq!(
        open("{"),
        "config.json: not a valid JSON object: EOF while parsing an object at line 1 column 1"
    );
    assert_eq!(
        open("[]"),
        "config.json: not a valid JSON object: invalid type: sequence, expected an object at line 1 column 0"
    );
    for field in [
        "hidden_size",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rope_theta",
        "num_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
    ] {
        assert_eq!(
            without(field),
            format!("config.json: required field `{field}` is missing")
        );
    }
    for (field, value, expected) in [
        (
            "hidden_size",
            json!(0),
            "field `hidden_size` is 0, expected 1 to 262144",
        ),
        (
            "hidden_size",
            json!(1_u64 << 63),
            "field `hidden_size` is 9223372036854775808, expected 1 to 262144",
        ),
        (
            "hidden_size",
            json!(-1),
            "field `hidden_size` is not a whole number",
        ),
        (
            "hidden_size",
            json!(1.5),
            "field `hidden_size` is not a whole number",
        ),
        (
            "hidden_size",
            json!("128"),
            "field `hidden_size` is not a whole number",
        ),
        (
            "num_hidden_layers",
            json!(1_000_000),
            "field `num_hidden_layers` is 1000000, expected 1 to 4096",
        ),
        (
            "num_key_value_heads",
            json!(3),
            "field `num_key_value_heads` is 3, expected a divisor of the 4 heads",
        ),
        (
            "head_dim",
            json!(63),
            "field `head_dim` is 63, expected an even number",
        ),
        (
            "rms_norm_eps",
            json!(0),
            "field `rms_norm_eps` is 0, expected above zero",
        ),
        (
            "num_experts_per_tok",
            json!(9),
            "field `num_experts_per_tok` is 9, expected at most the 8 experts",
        ),
        (
            "hidden_act",
            json!("gelu"),
            "field `hidden_act`: `gelu` is not supported, only `silu`",
        ),
        (
            "use_sliding_window",
            json!(true),
            "field `use_sliding_window`: true is not supported, only full attention",
        ),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "field `layer_types`: `sliding_attention` is not supported, only `full_attention`",
        ),
        (
            "rope_scaling",
            json!({"type": "yarn", "factor": 4.0}),
            "field `rope_scaling`: type `yarn` is not supported, only `default`",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "linear", "rope_theta": 1e4}),
            "field `rope_parameters`: type `linear` is not supported, only `default`",
        ),
        (
            "partial_rotary_factor",
            json!(0.5),
            "field `partial_rotary_factor`: 0.5 is not supported, only 1",
        ),
        (
            "model_type",
            json!("mamba"),
            "unknown architecture `mamba`: supported are qwen3, qwen3_moe, qwen3_next, glm4_moe_lite",
        ),
        (
            "model_type",
            json!("a\nb"),
            r"unknown architecture `a\nb`: supported are qwen3, qwen3_moe, qwen3_next, glm4_moe_lite",
        ),
        (
            "eos_token_id",
            json!("x"),
            "field `eos_token_id` is not a whole number or a short list of them",
        ),
        (
            "quantization_config",
            json!({"quant_method": "awq"}),
            "field `quant_method`: `awq` is not supported, only `exl3`, `fp8`, `compressed-tensors`, `fp_quant` and `gptq`",
        ),
        (
            "quantization_config",
            json!({"quant_method": "compressed-tensors", "format": "marlin-24"}),
            "field `format`: `marlin-24` is not supported, only pack-quantized, nvfp4-pack-quantized, \
             mxfp4-pack-quantized, int-quantized and float-quantized",
        ),
        (
            "quantization_config",
            json!({"quant_method": "compressed-tensors", "config_groups": {"a": {"format": "mxfp6-pack-quantized"}}}),
            "field `format`: `mxfp6-pack-quantized` is not supported, only pack-quantized, nvfp4-pack-quantized, \
             mxfp4-pack-quantized, int-quantized and float-quantized",
        ),
        (
            "quantization_config",
            json!({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 6}}}}),
            "field `num_bits`: `6` is not supported, only 2, 3, 4 and 8",
        ),
        (
            "quantization_config",
            json!({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"type": "complex"}}}}),
            "field `type`: `complex` is not supported, only `int` and `float`",
        ),
        (
            "quantization_config",
            json!({"quant_method": "compressed-tensors", "config_groups": {"a": 1}}),
            "field `config_groups` is not a map of objects",
        ),
        (
            "quantization_config",
            json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}),
            "field `format`: `sparse-24-bitmask` is not supported, only pack-quantized, nvfp4-pack-quantized, \
             mxfp4-pack-quantized, int-quantized and float-quantized",
        ),
        (
            "quantization_config",
            json!({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"R1": {}}}}),
            "field `transform_config`: `a rotation of inputs or outputs` is not supported, only unrotated linears",
        ),
        (
            "quantization_config",
            json!({"quant_method": "fp_quant"}),
            "required field `forward_dtype` is missing",
        ),
        (
            "quantization_config",
            json!({"quant_method": "fp_quant", "forward_dtype": "mxfp8"}),
            "field `forward_dtype`: `mxfp8` is not supported, only `nvfp4` and `mxfp4`",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq"}),
            "required field `bits` is missing",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq", "bits": 5}),
            "field `bits`: `5` is not supported, only 2, 3, 4 and 8",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
            "field `checkpoint_format`: `marlin` is not supported, only `gptq` and `gptq_v2`",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq", "bits": 4, "pack_dtype": "int16"}),
            "field `pack_dtype`: `int16` is not supported, only `int32`",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq", "bits": 4, "is_marlin_format": true}),
            "field `is_marlin_format`: `true` is not supported, only `false`",
        ),
        (
            "quantization_config",
            json!({}),
            "required field `quant_method` is missing",
        ),
        (
            "quantization_config",
            json!({"quant_method": "fp8", "weight_block_size": [128]}),
            "field `weight_block_size` is not two positive numbers",
        ),
        (
            "decoder_sparse_step",
            json!(2),
            "required field `intermediate_size` is missing",
        ),
    ] {
        let found = match field {
            "decoder_sparse_step" => {
                let mut config = config();
                config[field] = value;
                config.as_object_mut().unwrap().remove("intermediate_size");
                open(&config.to_string())
            }
            _ => with(field, value),
        };
        assert_eq!(found, format!("config.json: {expected}"));
    }
    let nameless = {
        let mut config = config();
        config.as_object_mut().unwrap().remove("model_type");
        config["architectures"] = json!([]);
        open(&config.to_string())
    };
    assert_eq!(
        nameless,
        "config.json: required field `model_type` is missing"
    );
}

#[test]
fn a_config_too_large_is_not_read_and_tensor_lists_are_skipped() {
    let weights = Tensors::new().f32("a", &[1], &[1.0]).bytes();
    let dir = folder(&[("model.safetensors", &weights)]);
    let path = dir.path().join("config.json");
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(65 << 20)
        .unwrap();
    assert_eq!(
        message(Checkpoint::open(dir.path()), dir.path()),
        "config.json: 68157440 bytes, more than the 67108864 that such a file may have"
    );
    let mut with_list = config();
    with_list["quantization_config"] = json!({"quant_method": "exl3"});
    let mut without_list = with_list.clone();
    with_list["quantization_config"]["tensor_storage"] = json!({"a": [1, 2, 3]});
    fs::write(&path, with_list.to_string()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.raw_config(), &without_list);
    without_list["quantization_config"] = Value::Null;
    fs::write(&path, without_list.to_string()).unwrap();
    assert!(
        Checkpoint::open(dir.path())
            .unwrap()
            .quantization()
            .is_none()
    );
}

#[test]
fn generation_defaults_that_cannot_be_used() {
    let weights = Tensors::new().f32("a", &[1], &[1.0]).bytes();
    let open = |generation: &str| {
        open(&[
            ("model.safetensors", &weights),
            ("generation_config.json", generation.as_bytes()),
        ])
    };
    assert_eq!(
        open("1"),
        "generation_config.json: not a valid JSON object: invalid type: integer `1`, expected an object at line 1 column 1"
    );
    assert_eq!(
        open(r#"{"eos_token_id": {}}"#),
        "generation_config.json: field `eos_token_id` is not a whole number or a short list of them"
    );
}

#[test]
fn end_tokens_of_both_files_count() {
    let weights = Tensors::new().f32("a", &[1], &[1.0]).bytes();
    let dir = folder(&[
        ("model.safetensors", &weights),
        ("generation_config.json", br#"{"eos_token_id": [7, 508]}"#),
    ]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.config().eos_token_ids, [508, 7]);
}

#[test]
fn a_name_longer_than_the_line_is_cut() {
    let (dir, checkpoint) = checkpoint(&Tensors::new().f32("a", &[1], &[1.0]));
    drop(checkpoint);
    let mut config = config();
    config["model_type"] = json!("x".repeat(100_000));
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let message = message(Checkpoint::open(dir.path()), dir.path());
    assert!(message.len() < 250, "{} bytes", message.len());
}
