//! The sizes of models that measurements know by name.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use treillage_checkpoint::ModelConfig;

/// A model by its sizes.
#[derive(Debug)]
pub struct Preset {
    /// What `--preset` calls it.
    pub name: &'static str,
    /// Bits of the head, unless asked for otherwise.
    pub head_bits: usize,
    config: fn() -> Value,
}

/// All of them; the first is the default.
pub const PRESETS: &[Preset] = &[
    // The size that llama.cpp's figures in docs/performance.md are for.
    Preset {
        name: "small",
        head_bits: 3,
        config: small,
    },
    Preset {
        name: "qwen3_30b_a3b",
        head_bits: 6,
        config: qwen3_30b_a3b,
    },
    // GLM-4.7-Flash.
    Preset {
        name: "glm47_moe",
        head_bits: 6,
        config: glm47_moe,
    },
    Preset {
        name: "qwen3_coder_next",
        head_bits: 6,
        config: qwen3_coder_next,
    },
];

impl Preset {
    /// The one called `name`.
    ///
    /// # Errors
    /// A message with the names that there are.
    pub fn find(name: &str) -> Result<&'static Self, String> {
        let found = PRESETS.iter().find(|preset| preset.name == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
            format!("expected one of {}", names.join(", "))
        })
    }

    /// The configuration, with the first `layers` of its transformer blocks and the first `vocabulary` of its tokens only, if so
    /// many are asked for.
    ///
    /// # Errors
    /// If one of them is no sensible number.
    pub fn config(&self, layers: Option<usize>, vocabulary: Option<usize>) -> Result<ModelConfig> {
        let parsed = ModelConfig::from_json(&self.json(layers, vocabulary));
        parsed.with_context(|| format!("configuration of {}", self.name))
    }

    /// The same as it stands in a file.
    pub fn json(&self, layers: Option<usize>, vocabulary: Option<usize>) -> Value {
        let mut config = (self.config)();
        let cut = [("num_hidden_layers", layers), ("vocab_size", vocabulary)];
        for (key, asked) in cut {
            if let Some(number) = asked {
                config[key] = number.into();
            }
        }
        config
    }
}

fn small() -> Value {
    json!({
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 32,
        "num_experts_per_tok": 4,
        "norm_topk_prob": true,
        "vocab_size": 32_000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": false,
    })
}

fn qwen3_30b_a3b() -> Value {
    json!({
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": true,
        "vocab_size": 151_936,
        "max_position_embeddings": 40_960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": false,
    })
}

fn glm47_moe() -> Value {
    json!({
        "model_type": "glm4_moe_lite",
        "architectures": ["Glm4MoeLiteForCausalLM"],
        "hidden_size": 2048,
        "num_hidden_layers": 47,
        "num_attention_heads": 20,
        "num_key_value_heads": 20,
        "q_lora_rank": 768,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64,
        "v_head_dim": 256,
        "rope_interleave": true,
        "intermediate_size": 10_240,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 64,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "norm_topk_prob": true,
        "routed_scaling_factor": 1.8,
        "vocab_size": 154_880,
        "max_position_embeddings": 202_752,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "tie_word_embeddings": false,
    })
}

fn qwen3_coder_next() -> Value {
    json!({
        "model_type": "qwen3_next",
        "architectures": ["Qwen3NextForCausalLM"],
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "partial_rotary_factor": 0.25,
        "full_attention_interval": 4,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "shared_expert_intermediate_size": 512,
        "norm_topk_prob": true,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "vocab_size": 151_936,
        "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5e6,
        "tie_word_embeddings": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_models_that_the_workspace_runs() {
        for preset in PRESETS {
            let config = preset.config(None, None).expect("a configuration");
            assert!(config.num_layers > 1, "{}", preset.name);
            let less = preset.config(Some(1), Some(128)).expect("less of it");
            assert_eq!((less.num_layers, less.vocab_size), (1, 128));
            assert_eq!(Preset::find(preset.name).map(|p| p.name), Ok(preset.name));
        }
        // In billions; parameters of norms and of linears that are not quantized are missing.
        for (preset, parameters) in PRESETS[1..].iter().zip([30.51, 29.94, 79.6]) {
            let config = preset.config(None, None).expect("a configuration");
            let plan = treillage_model::plan::plan(&config);
            let linears = plan.blocks.iter().flat_map(|block| &block.linears);
            let weights: usize = linears.map(|linear| linear.shape.weights()).sum();
            let all = (weights + 2 * plan.head.shape.weights()) as f64 / 1e9;
            assert!((all - parameters).abs() < 0.05, "{}: {all}", preset.name);
        }
    }

    #[test]
    fn unknown_presets_are_told_from_known_ones() {
        let error = Preset::find("large").expect_err("there is none");
        assert!(error.contains("small, qwen3_30b_a3b, glm47_moe"), "{error}");
    }
}
