//! Any JSON as `config.json` and `generation_config.json`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use treillage_checkpoint::{FeedForward, ModelConfig, Quantization};

fuzz_target!(|data: &[u8]| {
    let Ok(json) = serde_json::from_slice(data) else {
        return;
    };
    let _ = Quantization::from_json(&json);
    let Ok(mut config) = ModelConfig::from_json(&json) else {
        return;
    };
    let _ = config.merge_generation(&json);
    // What passes is plausible.
    assert!(config.attention.num_heads.is_multiple_of(config.attention.num_kv_heads));
    for layer in 0..config.num_layers {
        match config.feed_forward(layer) {
            FeedForward::Dense { intermediate_size } => assert!(intermediate_size > 0),
            FeedForward::Moe(moe) => assert!(moe.experts_per_token <= moe.num_experts),
        }
    }
});
