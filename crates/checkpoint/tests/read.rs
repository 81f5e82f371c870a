//! Reading real checkpoints: the repository's fixture and, where present, the shared models and golden vectors.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;

use common::fixture;
use treillage_checkpoint::{
    Architecture, Checkpoint, DenseData, Dtype, FeedForward, ModelConfig, StoredLinear,
};

#[test]
fn the_fixture_opens_and_its_config_is_what_it_says() {
    let checkpoint = Checkpoint::open(fixture()).unwrap();
    let config = checkpoint.config();
    assert_eq!(config.architecture, Architecture::Qwen3Moe);
    assert_eq!((config.hidden_size, config.num_layers), (128, 2));
    assert_eq!(config.attention.num_heads, 4);
    assert_eq!(config.attention.num_kv_heads, 2);
    assert_eq!(config.attention.head_dim, 64);
    assert_eq!(config.attention.rope_theta, 1e6);
    assert_eq!(config.eos_token_ids, [508]);
    assert_eq!(config.pad_token_id, Some(511));
    assert_eq!(config.dtype, Some(Dtype::Bf16));
    let FeedForward::Moe(moe) = config.feed_forward(1) else {
        panic!("block 1 has experts");
    };
    assert_eq!((moe.num_experts, moe.experts_per_token), (8, 2));
    assert_eq!(moe.intermediate_size, 128);
    assert!(moe.norm_topk_prob);
    assert!(checkpoint.quantization().is_none());
    assert_eq!(checkpoint.names().len(), 69);
}

#[test]
fn linears_share_the_mapped_file() {
    let checkpoint = Checkpoint::open(fixture()).unwrap();
    let prefix = "model.layers.1.mlp.experts.7.down_proj";
    assert!(checkpoint.has_linear(prefix));
    let StoredLinear::Dense { weight, bias } = checkpoint.linear(prefix, 128, 128).unwrap() else {
        panic!("not quantized");
    };
    assert!(bias.is_none());
    weight.check_finite().unwrap();
    let view = checkpoint.tensor(&format!("{prefix}.weight")).unwrap();
    let DenseData::Bf16(values) = weight.data() else {
        panic!("stored in bf16");
    };
    let values = (**values).as_ref();
    assert_eq!(values.as_ptr().cast(), view.bytes().as_ptr(), "no copy");
    // The window keeps the file mapped.
    let first = values[0];
    let weight = weight.clone();
    drop(checkpoint);
    assert_eq!(weight.to_f32()[0], first.to_f32());
}

#[test]
fn both_spellings_of_a_config_mean_the_same() {
    let published = common::config();
    let mut resaved = published.clone();
    let fields = resaved.as_object_mut().unwrap();
    let theta = fields.remove("rope_theta").unwrap();
    fields.remove("rope_scaling");
    fields.insert(
        "rope_parameters".into(),
        serde_json::json!({"rope_theta": theta, "rope_type": "default"}),
    );
    for (from, to) in [
        ("torch_dtype", "dtype"),
        ("num_experts", "num_local_experts"),
    ] {
        let value = fields.remove(from).unwrap();
        fields.insert(to.into(), value);
    }
    fields.insert("eos_token_id".into(), serde_json::json!([508]));
    assert_eq!(
        ModelConfig::from_json(&published).unwrap(),
        ModelConfig::from_json(&resaved).unwrap()
    );
}

#[test]
fn evicted_pages_are_read_again() {
    let checkpoint = Checkpoint::open(fixture()).unwrap();
    let name = "model.layers.0.mlp.experts.0.up_proj.weight";
    let tensor = checkpoint.dense(name).unwrap();
    let before = tensor.to_f32();
    checkpoint.evict("model.layers.0.");
    assert_eq!(tensor.to_f32(), before);
    assert_eq!(checkpoint.dense(name).unwrap().to_f32(), before);
}

/// The configurations that transformers writes for the shared models, old and new.
#[test]
fn shared_configs_are_read_or_refused_by_name() {
    for (model, known) in [
        ("micro-qwen3_moe", true),
        ("micro-glm4_moe_lite", false),
        ("micro-qwen3_next", false),
    ] {
        let Some(dir) = common::shared(&format!("models/{model}")) else {
            continue;
        };
        let [published, resaved] = ["config.json", "config.hf5.json"].map(|name| {
            let json: serde_json::Value =
                serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap();
            ModelConfig::from_json(&json)
        });
        match (published, resaved) {
            (Ok(published), Ok(resaved)) => assert!(known && published == resaved, "{model}"),
            (Err(published), Err(resaved)) => {
                assert!(!known, "{model}: {published}");
                assert!(published.to_string().starts_with("unknown architecture"));
                assert_eq!(published.to_string(), resaved.to_string());
            }
            _ => panic!("{model}: one spelling is read, the other is not"),
        }
    }
}
