//! Inputs made up from a seed: numbers, packed linears, whole models.

use std::sync::Arc;

use anyhow::{Context, Result};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use treillage_backend::{DenseData, DenseWeights, LinearShape, LinearWeights};
use treillage_checkpoint::ModelConfig;
use treillage_model::{Error, Weights};
use treillage_trellis::{Bits, Codebook, PackedLinear, PackedParts};

/// The generator that every measurement draws from.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// `count` draws from N(0, 1), by Box and Muller's method.
pub fn normal(rng: &mut impl Rng, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let angle = std::f64::consts::TAU * rng.random::<f64>();
            (radius * angle.cos()) as f32
        })
        .collect()
}

/// A linear of random words and signs whose output has about the variance of its input. Speed does not depend on
/// what the words mean.
///
/// # Errors
/// If a size is not a multiple of 128.
pub fn packed_linear(
    rng: &mut impl Rng,
    shape: LinearShape,
    bits: Bits,
    codebook: Codebook,
) -> Result<PackedLinear, treillage_trellis::Error> {
    let LinearShape {
        in_features,
        out_features,
    } = shape;
    let tiles = [in_features / 16, out_features / 16, bits.words_per_tile()];
    let mut words = vec![0u16; tiles.iter().product()];
    rng.fill(&mut words[..]);
    let mut scales = |count: usize, scale: f32| -> Vec<f16> {
        (0..count)
            .map(|_| f16::from_f32(if rng.random() { scale } else { -scale }))
            .collect()
    };
    PackedLinear::new(PackedParts {
        words: Arc::new(words),
        shape: tiles,
        codebook,
        suh: scales(in_features, (in_features as f32).sqrt().recip()),
        svh: scales(out_features, 1.0),
        bias: None,
    })
}

/// A mixture-of-experts model of random words: hidden 2048, 32 experts of 768 of which a token visits four, 32 heads
/// of 128 over four key heads, a vocabulary of 32,000. The size that llama.cpp's figures in docs/performance.md are for.
pub struct RandomModel {
    /// Rate of the blocks' linears.
    pub bits: Bits,
    /// Rate of the head.
    pub head_bits: Bits,
    /// How states become weights.
    pub codebook: Codebook,
}

impl RandomModel {
    /// The configuration, with `layers` transformer blocks.
    ///
    /// # Errors
    /// If `layers` is no sensible number.
    pub fn config(layers: usize) -> Result<ModelConfig> {
        let config = json!({
            "model_type": "qwen3_moe",
            "architectures": ["Qwen3MoeForCausalLM"],
            "hidden_size": 2048,
            "num_hidden_layers": layers,
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
        });
        ModelConfig::from_json(&config).context("configuration of the random model")
    }
}

/// A seed of its own for each tensor.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Weights for RandomModel {
    fn linear(&self, prefix: &str, shape: LinearShape) -> Result<LinearWeights, Error> {
        if prefix.ends_with("mlp.gate") {
            // The router.
            let weight = self.dense(prefix, shape.out_features, shape.in_features)?;
            return Ok(LinearWeights::Dense { weight, bias: None });
        }
        let bits = match prefix {
            "lm_head" => self.head_bits,
            _ => self.bits,
        };
        let packed = packed_linear(&mut rng(seed(prefix)), shape, bits, self.codebook);
        let packed = packed.map_err(treillage_backend::Error::from)?;
        Ok(LinearWeights::Trellis(Arc::new(packed)))
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<DenseWeights, Error> {
        let mut rng = rng(seed(name));
        let values: Vec<bf16> = (0..rows * cols)
            .map(|_| bf16::from_f32(rng.random::<f32>() - 0.5))
            .collect();
        Ok(DenseWeights::new(
            rows,
            cols,
            DenseData::Bf16(Arc::new(values)),
        )?)
    }

    fn vector(&self, _: &str, len: usize) -> Result<Vec<f32>, Error> {
        Ok(vec![1.0; len])
    }

    fn has_linear(&self, _: &str) -> bool {
        true
    }
}
