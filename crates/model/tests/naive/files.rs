//! Random checkpoints as Hugging Face would lay them out.

use std::{collections::BTreeMap, fs, path::Path};

use half::bf16;
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde_json::json;

/// Sizes of a tiny model. Heads are wider than the residual stream, as in the published ones.
#[derive(Clone)]
pub(crate) struct Sizes {
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) vocabulary: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) theta: f64,
    pub(crate) epsilon: f64,
    pub(crate) tied: bool,
    pub(crate) moe: Option<Moe>,
}

#[derive(Clone)]
pub(crate) struct Moe {
    pub(crate) experts: usize,
    pub(crate) top_k: usize,
    pub(crate) inner: usize,
    pub(crate) normalize: bool,
    pub(crate) sparse_step: usize,
    pub(crate) dense_layers: Vec<usize>,
}

impl Sizes {
    pub(crate) fn is_sparse(&self, layer: usize) -> Option<&Moe> {
        self.moe.as_ref().filter(|moe| {
            (layer + 1).is_multiple_of(moe.sparse_step) && !moe.dense_layers.contains(&layer)
        })
    }

    fn config(&self) -> serde_json::Value {
        let mut config = json!({
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocabulary,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "rope_theta": self.theta,
            "rms_norm_eps": self.epsilon,
            "max_position_embeddings": 256,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "eos_token_id": 0,
        });
        if let Some(moe) = &self.moe {
            config["model_type"] = json!("qwen3_moe");
            config["architectures"] = json!(["Qwen3MoeForCausalLM"]);
            config["num_experts"] = json!(moe.experts);
            config["num_experts_per_tok"] = json!(moe.top_k);
            config["moe_intermediate_size"] = json!(moe.inner);
            config["norm_topk_prob"] = json!(moe.normalize);
            config["decoder_sparse_step"] = json!(moe.sparse_step);
            config["mlp_only_layers"] = json!(moe.dense_layers);
        }
        config
    }

    fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let mut shapes = BTreeMap::new();
        let mut add = |name: String, shape: &[usize]| shapes.insert(name, shape.to_vec());
        let (hidden, inner) = (self.hidden, self.inner);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        add(
            "model.embed_tokens.weight".into(),
            &[self.vocabulary, hidden],
        );
        add("model.norm.weight".into(), &[hidden]);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocabulary, hidden]);
        }
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                add(format!("model.layers.{layer}.{name}.weight"), shape);
            };
            add("input_layernorm", &[hidden]);
            add("post_attention_layernorm", &[hidden]);
            add("self_attn.q_norm", &[self.head_dim]);
            add("self_attn.k_norm", &[self.head_dim]);
            add("self_attn.q_proj", &[q, hidden]);
            add("self_attn.k_proj", &[kv, hidden]);
            add("self_attn.v_proj", &[kv, hidden]);
            add("self_attn.o_proj", &[hidden, q]);
            let mut mlp = |name: &str, inner| {
                add(&format!("{name}.gate_proj"), &[inner, hidden]);
                add(&format!("{name}.up_proj"), &[inner, hidden]);
                add(&format!("{name}.down_proj"), &[hidden, inner]);
            };
            match self.is_sparse(layer) {
                None => mlp("mlp", inner),
                Some(moe) => {
                    for e in 0..moe.experts {
                        mlp(&format!("mlp.experts.{e}"), moe.inner);
                    }
                    add("mlp.gate", &[moe.experts, hidden]);
                }
            }
        }
        shapes
    }
}

/// Tensors by name: shape and values.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// Writes a checkpoint of random bf16 weights into `dir` and returns them.
pub(crate) fn write(dir: &Path, sizes: &Sizes, seed: u64) -> Tensors {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut header, mut bytes) = (serde_json::Map::new(), Vec::new());
    let mut tensors = Tensors::new();
    for (name, shape) in sizes.shapes() {
        // Norms near one; matrices that keep the size of what they multiply.
        let (centre, width) = match shape[..] {
            [_] => (1.0, 0.5),
            _ => (0.0, (3.0 / shape[shape.len() - 1] as f64).sqrt()),
        };
        let count: usize = shape.iter().product();
        let values: Vec<bf16> = (0..count)
            .map(|_| bf16::from_f64(centre + width * rng.random_range(-1.0..1.0)))
            .collect();
        let start = bytes.len();
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        header.insert(
            name.clone(),
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, bytes.len()]}),
        );
        tensors.insert(name, (shape, values.into_iter().map(f64::from).collect()));
    }
    let header = serde_json::Value::from(header).to_string();
    let file = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &bytes,
    ]
    .concat();
    fs::write(dir.join("model.safetensors"), file).unwrap();
    fs::write(dir.join("config.json"), sizes.config().to_string()).unwrap();
    tensors
}
