//! Reading real checkpoints: the repository's fixture and, where present, the shared models and golden vectors.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;

use common::fixture;
use treillage_checkpoint::{
    Architecture, Checkpoint, DenseData, Dtype, FeedForward, Mixer, ModelConfig, Scoring,
    SharedExpert, StoredLinear,
};

#[test]
fn the_fixture_opens_and_its_config_is_what_it_says() {
    let checkpoint = Checkpoint::open(fixture()).unwrap();
    let config = checkpoint.config();
    assert_eq!(config.architecture, Architecture::Qwen3Moe);
    assert_eq!((config.hidden_size, config.num_layers), (128, 2));
    let attention = config.attention().unwrap();
    assert_eq!((attention.num_heads, attention.num_kv_heads), (4, 2));
    assert_eq!((attention.head_dim, attention.rotary_dim), (64, 64));
    assert_eq!(attention.rope_theta, 1e6);
    assert!(!attention.output_gate && !config.zero_centred_norms);
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

/// The configuration of a fixture, as published and as transformers 5 spells it.
fn both_spellings(model: &str) -> [serde_json::Value; 2] {
    ["config.json", "config.hf5.json"].map(|name| {
        let path = fixture().with_file_name(model).join(name);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    })
}

#[test]
fn latent_attention_is_read_from_both_spellings() {
    let [published, saved] = both_spellings("micro-glm4_moe_lite");
    let config = ModelConfig::from_json(&published).unwrap();
    assert_eq!(config, ModelConfig::from_json(&saved).unwrap());
    assert_eq!(config.architecture, Architecture::Glm4MoeLite);
    assert!(config.attention().is_none() && !config.zero_centred_norms);
    let Mixer::Latent(latent) = config.mixer(2) else {
        panic!("all blocks have latent attention");
    };
    assert_eq!(
        (latent.num_heads, latent.q_lora_rank, latent.kv_lora_rank),
        (2, 128, 128)
    );
    let dims = [
        latent.qk_nope_head_dim,
        latent.qk_rope_head_dim,
        latent.v_head_dim,
    ];
    assert_eq!(dims, [64, 128, 128]);
    assert!(latent.rope_interleave);
    assert!(matches!(
        config.feed_forward(0),
        FeedForward::Dense {
            intermediate_size: 128
        }
    ));
    let FeedForward::Moe(moe) = config.feed_forward(1) else {
        panic!("block 1 has experts");
    };
    assert_eq!((moe.num_experts, moe.experts_per_token), (6, 2));
    assert_eq!(
        (moe.scoring, moe.groups),
        (Scoring::CorrectedSigmoid, Some((2, 1)))
    );
    assert_eq!((moe.norm_topk_prob, moe.routed_scaling_factor), (true, 1.8));
    let shared = SharedExpert {
        intermediate_size: 128,
        gated: false,
    };
    assert_eq!(moe.shared, Some(shared));
}

#[test]
fn gated_delta_nets_are_read_from_both_spellings() {
    let [published, saved] = both_spellings("micro-qwen3_next");
    let config = ModelConfig::from_json(&published).unwrap();
    assert_eq!(config, ModelConfig::from_json(&saved).unwrap());
    assert!(config.zero_centred_norms);
    let Mixer::DeltaNet(net) = config.mixer(1) else {
        panic!("block 1 has a state");
    };
    assert_eq!(
        (net.num_key_heads, net.num_value_heads, net.conv_kernel),
        (2, 4, 4)
    );
    let Mixer::Attention(attention) = config.mixer(2) else {
        panic!("the last of three blocks has attention");
    };
    assert_eq!((attention.head_dim, attention.rotary_dim), (128, 32));
    assert!(attention.output_gate);
    let shared = SharedExpert {
        intermediate_size: 128,
        gated: true,
    };
    assert_eq!(config.moe().unwrap().shared, Some(shared));
}

#[test]
fn what_makes_no_such_model_is_refused() {
    for (model, field, value, expected) in [
        (
            "micro-glm4_moe_lite",
            "topk_method",
            "greedy".into(),
            "noaux_tc",
        ),
        ("micro-glm4_moe_lite", "n_group", 4.into(), "n_group"),
        (
            "micro-glm4_moe_lite",
            "q_lora_rank",
            serde_json::Value::Null,
            "q_lora_rank",
        ),
        (
            "micro-glm4_moe_lite",
            "qk_rope_head_dim",
            7.into(),
            "an even number",
        ),
        (
            "micro-glm4_moe_lite",
            "partial_rotary_factor",
            0.5.into(),
            "only 1",
        ),
        (
            "micro-glm4_moe_lite",
            "mlp_layer_types",
            vec!["dense"].into(),
            "3 blocks",
        ),
        (
            "micro-qwen3_next",
            "layer_types",
            vec!["full_attention"; 2].into(),
            "3 blocks",
        ),
        (
            "micro-qwen3_next",
            "layer_types",
            vec!["mamba"; 3].into(),
            "`mamba`",
        ),
        (
            "micro-qwen3_next",
            "full_attention_interval",
            0.into(),
            "full_attention_interval",
        ),
        (
            "micro-qwen3_next",
            "linear_num_key_heads",
            3.into(),
            "a divisor of the 4 heads",
        ),
        (
            "micro-qwen3_next",
            "partial_rotary_factor",
            0.01.into(),
            "an even share",
        ),
    ] {
        let [mut config, _] = both_spellings(model);
        config[field] = value;
        let message = ModelConfig::from_json(&config).unwrap_err().to_string();
        assert!(message.contains(expected), "{field}: {message}");
    }
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
