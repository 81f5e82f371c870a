use serde_json::Value;

use super::{
    ConfigError,
    feed_forward::{FeedForward, FeedForwards, Moe},
    fields::{Fields, required},
    limit,
    mixer::{Attention, Mixer, Mixers},
};
use crate::{Dtype, error::quoted};

/// The model families that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// Qwen3, dense.
    Qwen3,
    /// Qwen3 with routed experts.
    Qwen3Moe,
    /// Qwen3-Next: gated DeltaNets between blocks of gated attention, routed experts and one for every token.
    Qwen3Next,
    /// GLM-4.7-Flash: latent attention, experts chosen by corrected sigmoids and one for every token.
    Glm4MoeLite,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 4] = [
        Architecture::Qwen3,
        Architecture::Qwen3Moe,
        Architecture::Qwen3Next,
        Architecture::Glm4MoeLite,
    ];

    /// `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Architecture::Qwen3 => "qwen3",
            Architecture::Qwen3Moe => "qwen3_moe",
            Architecture::Qwen3Next => "qwen3_next",
            Architecture::Glm4MoeLite => "glm4_moe_lite",
        }
    }

    /// The class in `architectures` of `config.json`.
    pub fn class(self) -> &'static str {
        match self {
            Architecture::Qwen3 => "Qwen3ForCausalLM",
            Architecture::Qwen3Moe => "Qwen3MoeForCausalLM",
            Architecture::Qwen3Next => "Qwen3NextForCausalLM",
            Architecture::Glm4MoeLite => "Glm4MoeLiteForCausalLM",
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
/// files saved by transformers 5 (`rope_parameters`, `dtype`, `num_local_experts`, `layer_types`, `mlp_layer_types`).
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
    /// Whether the gains of norms are stored less one, those inside a gated DeltaNet apart.
    pub zero_centred_norms: bool,
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
    mixers: Mixers,
    feed_forwards: FeedForwards,
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
            zero_centred_norms: architecture == Architecture::Qwen3Next,
            mixers: Mixers::from_fields(&fields, architecture, num_layers)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            bos_token_id: token("bos_token_id")?,
            eos_token_ids: fields.numbers("eos_token_id")?,
            pad_token_id: token("pad_token_id")?,
            dtype: dtype.and_then(Dtype::from_torch_name),
            feed_forwards: FeedForwards::from_fields(&fields, architecture, num_layers)?,
        })
    }

    /// How tokens of block `layer` learn of those before them.
    pub fn mixer(&self, layer: usize) -> Mixer<'_> {
        self.mixers.of(layer)
    }

    /// The attention to keys and values, if any block has it.
    pub fn attention(&self) -> Option<&Attention> {
        self.mixers.attention()
    }

    /// The feed-forward half of block `layer`.
    pub fn feed_forward(&self, layer: usize) -> FeedForward<'_> {
        self.feed_forwards.of(layer)
    }

    /// The routed experts, if any block has them.
    pub fn moe(&self) -> Option<&Moe> {
        self.feed_forwards.moe()
    }

    /// The same model, but that every token visits every expert: what calibration may want, not what was trained.
    pub fn with_all_experts(&self) -> Self {
        let mut config = self.clone();
        if let Some(moe) = config.feed_forwards.moe_mut() {
            moe.experts_per_token = moe.num_experts;
            moe.groups = None;
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
    Ok(())
}
