use serde_json::Value;

use super::{
    ConfigError,
    fields::{Fields, required},
};
use crate::{Dtype, error::quoted};

/// Limits beyond which a number in a configuration is a mistake or an attack; each is an order of magnitude above
/// the largest published model. Their products fit in 64 bits.
mod limit {
    pub(super) const HIDDEN: usize = 1 << 18;
    pub(super) const INTERMEDIATE: usize = 1 << 20;
    pub(super) const VOCABULARY: usize = 1 << 23;
    pub(super) const LAYERS: usize = 1 << 12;
    pub(super) const HEADS: usize = 1 << 12;
    pub(super) const HEAD_DIM: usize = 1 << 12;
    pub(super) const EXPERTS: usize = 1 << 14;
    pub(super) const POSITIONS: usize = 1 << 30;
}

/// The model families that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// Qwen3, dense.
    Qwen3,
    /// Qwen3 with routed experts.
    Qwen3Moe,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 2] = [Architecture::Qwen3, Architecture::Qwen3Moe];

    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Qwen3 => "qwen3",
            Architecture::Qwen3Moe => "qwen3_moe",
        }
    }

    /// The class in `architectures` of `config.json`.
    pub fn class(self) -> &'static str {
        match self {
            Architecture::Qwen3 => "Qwen3ForCausalLM",
            Architecture::Qwen3Moe => "Qwen3MoeForCausalLM",
        }
    }

    /// The model types as a list for messages.
    pub(super) fn supported() -> String {
        Self::ALL.map(Self::model_type).join(", ")
    }

    /// By `model_type` or, in files without one, by the first of `architectures`.
    fn from_fields(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let classes = fields.texts("architectures")?.unwrap_or_default();
        let (found, name): (_, fn(Self) -> &'static str) =
            match (fields.text("model_type")?, &classes[..]) {
                (Some(model_type), _) => (model_type, Self::model_type),
                (None, [class, ..]) => (*class, Self::class),
                (None, []) => return Err(ConfigError::Missing("model_type")),
            };
        Self::ALL
            .into_iter()
            .find(|&architecture| name(architecture) == found)
            .ok_or_else(|| ConfigError::Architecture {
                found: quoted(found),
            })
    }
}

/// What `config.json` says about the model; all sizes are checked to be plausible and to fit each other.
///
/// Both spellings are read: that of the published files (`rope_theta`, `torch_dtype`, `num_experts`) and that of
/// files saved by transformers 5 (`rope_parameters`, `dtype`, `num_local_experts`).
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Rows of the embedding, columns of the head.
    pub vocab_size: usize,
    /// Longest context that the model was trained for.
    pub max_position_embeddings: usize,
    /// Added under the root of every RMS norm.
    pub rms_norm_eps: f32,
    /// The attention of every block.
    pub attention: Attention,
    /// Whether the head is the embedding where the checkpoint has no head.
    pub tie_word_embeddings: bool,
    /// Token that begins a text, if the model uses one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text: those of `config.json`, then any more of `generation_config.json`.
    pub eos_token_ids: Vec<u32>,
    /// Token that fills up, if the model has one.
    pub pad_token_id: Option<u32>,
    /// The type that the weights were published in, if the file says so.
    pub dtype: Option<Dtype>,
    feed_forwards: FeedForwards,
}

/// Grouped-query attention with a norm on each head's query and key and rotary positions over the whole head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides [`Attention::num_heads`].
    pub num_kv_heads: usize,
    /// Width of a head; even. Not always `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// Routed experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moe {
    /// Experts of a block.
    pub num_experts: usize,
    /// Experts that a token visits; at most [`Moe::num_experts`].
    pub experts_per_token: usize,
    /// Width of an expert.
    pub intermediate_size: usize,
    /// Whether the weights of the chosen experts are scaled to sum to one.
    pub norm_topk_prob: bool,
}

/// The feed-forward halves of all blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FeedForwards {
    /// One SwiGLU network in each, of this width.
    Dense(usize),
    /// Experts in each.
    Moe(Moe),
    /// Experts in some.
    Mixed {
        moe: Moe,
        /// Width of the others.
        dense: usize,
        pattern: Pattern,
    },
}

/// Which blocks have experts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// One of so many blocks has experts, beginning with the last of the first so many.
    sparse_step: usize,
    /// Blocks that have none all the same.
    dense_layers: Vec<u32>,
}

/// The feed-forward half of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward<'a> {
    /// One SwiGLU network.
    Dense {
        /// Its width.
        intermediate_size: usize,
    },
    /// A router and its experts.
    Moe(&'a Moe),
}

impl ModelConfig {
    /// Reads a whole `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] naming the field that is missing, of the wrong type, implausible or not supported.
    pub fn from_json(config: &Value) -> Result<Self, ConfigError> {
        let fields = Fields::new(config)?;
        let architecture = Architecture::from_fields(&fields)?;
        let size = |name, limit| required(name, fields.size(name, limit)?);
        let num_layers = size("num_hidden_layers", limit::LAYERS)?;
        let feed_forwards = match architecture {
            Architecture::Qwen3 => FeedForwards::Dense(dense_width(&fields)?),
            Architecture::Qwen3Moe => {
                let (moe, pattern) = (Moe::from_fields(&fields)?, Pattern::from_fields(&fields)?);
                if (0..num_layers).all(|layer| pattern.is_sparse(layer)) {
                    FeedForwards::Moe(moe)
                } else {
                    let dense = dense_width(&fields)?;
                    FeedForwards::Mixed {
                        moe,
                        dense,
                        pattern,
                    }
                }
            }
        };
        let dtype = match fields.text("torch_dtype")? {
            Some(name) => Some(name),
            None => fields.text("dtype")?,
        };
        check_supported(&fields)?;
        let token = |name| match fields.numbers(name)?[..] {
            [] => Ok(None),
            [id] => Ok(Some(id)),
            _ => Err(ConfigError::Type {
                field: name,
                expected: "a single token",
            }),
        };
        Ok(Self {
            architecture,
            hidden_size: size("hidden_size", limit::HIDDEN)?,
            num_layers,
            vocab_size: size("vocab_size", limit::VOCABULARY)?,
            max_position_embeddings: size("max_position_embeddings", limit::POSITIONS)?,
            rms_norm_eps: required("rms_norm_eps", fields.positive("rms_norm_eps")?)? as f32,
            attention: Attention::from_fields(&fields)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            bos_token_id: token("bos_token_id")?,
            eos_token_ids: fields.numbers("eos_token_id")?,
            pad_token_id: token("pad_token_id")?,
            dtype: dtype.and_then(Dtype::from_torch_name),
            feed_forwards,
        })
    }

    /// The feed-forward half of block `layer`.
    pub fn feed_forward(&self, layer: usize) -> FeedForward<'_> {
        let dense = |intermediate_size| FeedForward::Dense { intermediate_size };
        match &self.feed_forwards {
            &FeedForwards::Dense(width) => dense(width),
            FeedForwards::Moe(moe) => FeedForward::Moe(moe),
            FeedForwards::Mixed { moe, pattern, .. } if pattern.is_sparse(layer) => {
                FeedForward::Moe(moe)
            }
            &FeedForwards::Mixed { dense: width, .. } => dense(width),
        }
    }

    /// The routed experts, if any block has them.
    pub fn moe(&self) -> Option<&Moe> {
        match &self.feed_forwards {
            FeedForwards::Dense(_) => None,
            FeedForwards::Moe(moe) | FeedForwards::Mixed { moe, .. } => Some(moe),
        }
    }

    /// The same model, but that every token visits every expert: what calibration may want, not what was trained.
    pub fn with_all_experts(&self) -> Self {
        let mut config = self.clone();
        match &mut config.feed_forwards {
            FeedForwards::Dense(_) => {}
            FeedForwards::Moe(moe) | FeedForwards::Mixed { moe, .. } => {
                moe.experts_per_token = moe.num_experts;
            }
        }
        config
    }

    /// Adds what a `generation_config.json` says: further tokens that end a text.
    ///
    /// # Errors
    /// [`ConfigError`] if it is not an object or its `eos_token_id` neither a number nor a list of them.
    pub fn merge_generation(&mut self, generation: &Value) -> Result<(), ConfigError> {
        for id in Fields::new(generation)?.numbers("eos_token_id")? {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        Ok(())
    }
}

impl Attention {
    fn from_fields(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let size = |name, limit| required(name, fields.size(name, limit)?);
        let attention = Self {
            num_heads: size("num_attention_heads", limit::HEADS)?,
            num_kv_heads: size("num_key_value_heads", limit::HEADS)?,
            head_dim: size("head_dim", limit::HEAD_DIM)?,
            rope_theta: rope_theta(fields)?,
            bias: fields.flag("attention_bias")?.unwrap_or(false),
        };
        if !attention.num_heads.is_multiple_of(attention.num_kv_heads) {
            return Err(ConfigError::Implausible {
                field: "num_key_value_heads",
                value: attention.num_kv_heads.to_string(),
                expected: format!("a divisor of the {} heads", attention.num_heads),
            });
        }
        if !attention.head_dim.is_multiple_of(2) {
            return Err(ConfigError::Implausible {
                field: "head_dim",
                value: attention.head_dim.to_string(),
                expected: "an even number".to_owned(),
            });
        }
        Ok(attention)
    }
}

impl Moe {
    fn from_fields(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let size = |name, limit| required(name, fields.size(name, limit)?);
        let experts = match fields.size("num_experts", limit::EXPERTS)? {
            Some(experts) => Some(experts),
            None => fields.size("num_local_experts", limit::EXPERTS)?,
        };
        let moe = Self {
            num_experts: required("num_experts", experts)?,
            experts_per_token: size("num_experts_per_tok", limit::EXPERTS)?,
            intermediate_size: size("moe_intermediate_size", limit::INTERMEDIATE)?,
            norm_topk_prob: fields.flag("norm_topk_prob")?.unwrap_or(false),
        };
        if moe.experts_per_token > moe.num_experts {
            return Err(ConfigError::Implausible {
                field: "num_experts_per_tok",
                value: moe.experts_per_token.to_string(),
                expected: format!("at most the {} experts", moe.num_experts),
            });
        }
        Ok(moe)
    }
}

impl Pattern {
    fn from_fields(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let step = fields.size("decoder_sparse_step", limit::LAYERS)?;
        Ok(Self {
            sparse_step: step.unwrap_or(1),
            dense_layers: fields.numbers("mlp_only_layers")?,
        })
    }

    fn is_sparse(&self, layer: usize) -> bool {
        let listed = |&dense: &u32| dense as usize == layer;
        (layer + 1).is_multiple_of(self.sparse_step) && !self.dense_layers.iter().any(listed)
    }
}

fn dense_width(fields: &Fields<'_>) -> Result<usize, ConfigError> {
    let width = fields.size("intermediate_size", limit::INTERMEDIATE)?;
    required("intermediate_size", width)
}

/// The rotary base, from either spelling; scaled variants are refused.
fn rope_theta(fields: &Fields<'_>) -> Result<f64, ConfigError> {
    let parameters = fields.object("rope_parameters")?;
    for (field, rope) in [
        ("rope_parameters", parameters),
        ("rope_scaling", fields.object("rope_scaling")?),
    ] {
        let Some(rope) = rope else { continue };
        let kind = match rope.text("rope_type")? {
            Some(kind) => Some(kind),
            None => rope.text("type")?,
        };
        if let Some(kind) = kind.filter(|&kind| kind != "default") {
            return Err(ConfigError::Unsupported {
                field,
                value: format!("type {}", quoted(kind)),
                supported: "`default`",
            });
        }
    }
    let theta = match parameters {
        Some(parameters) => parameters.positive("rope_theta")?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => Some(theta),
        None => fields.positive("rope_theta")?,
    };
    required("rope_theta", theta)
}

/// Refuses what would silently compute something else.
fn check_supported(fields: &Fields<'_>) -> Result<(), ConfigError> {
    let unsupported = |field, value, supported| ConfigError::Unsupported {
        field,
        value,
        supported,
    };
    let activation = fields.text("hidden_act")?.unwrap_or("silu");
    if activation != "silu" {
        return Err(unsupported("hidden_act", quoted(activation), "`silu`"));
    }
    if fields.flag("use_sliding_window")? == Some(true) {
        return Err(unsupported(
            "use_sliding_window",
            "true".to_owned(),
            "full attention",
        ));
    }
    let layers = fields.texts("layer_types")?.unwrap_or_default();
    if let Some(other) = layers.iter().find(|&&layer| layer != "full_attention") {
        return Err(unsupported(
            "layer_types",
            quoted(other),
            "`full_attention`",
        ));
    }
    for parameters in [Some(*fields), fields.object("rope_parameters")?] {
        let rotary = match parameters {
            Some(parameters) => parameters.positive("partial_rotary_factor")?,
            None => None,
        };
        if let Some(rotary) = rotary.filter(|&rotary| rotary != 1.0) {
            return Err(unsupported(
                "partial_rotary_factor",
                rotary.to_string(),
                "1",
            ));
        }
    }
    Ok(())
}
