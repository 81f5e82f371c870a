//! Any JSON as `config.json` and `generation_config.json`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use treillage_checkpoint::{FeedForward, Mixer, ModelConfig, Quantization};

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
    for layer in 0..config.num_layers {
        match config.mixer(layer) {
            Mixer::Attention(attention) => {
                assert!(attention.num_heads.is_multiple_of(attention.num_kv_heads));
                assert!(attention.rotary_dim <= attention.head_dim);
            }
            Mixer::Latent(latent) => assert!(latent.qk_rope_head_dim.is_multiple_of(2)),
            Mixer::DeltaNet(net) => assert!(net.num_value_heads.is_multiple_of(net.num_key_heads)),
        }
        match config.feed_forward(layer) {
            FeedForward::Dense { intermediate_size } => assert!(intermediate_size > 0),
            FeedForward::Moe(moe) => assert!(moe.experts_per_token <= moe.num_experts),
        }
    }
});
