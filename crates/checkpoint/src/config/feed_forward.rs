use super::{
    Architecture, ConfigError,
    fields::{Fields, required},
    limit,
};
use crate::error::quoted;

/// Routed experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// Experts of a block.
    pub num_experts: usize,
    /// Experts that a token visits; at most [`Moe::num_experts`].
    pub experts_per_token: usize,
    /// Width of an expert.
    pub intermediate_size: usize,
    /// What the router's logits become.
    pub scoring: Scoring,
    /// Whether the weights of the chosen experts are scaled to sum to one.
    pub norm_topk_prob: bool,
    /// Factor of the weights, after that.
    pub routed_scaling_factor: f32,
    /// Groups of experts side by side, and how many of them a token may go to; `None` for all.
    pub groups: Option<(usize, usize)>,
    /// An expert for every token.
    pub shared: Option<SharedExpert>,
}

/// What a router's logits become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Shares of one.
    Softmax,
    /// Each by itself a sigmoid, compared with a correction that the checkpoint has.
    CorrectedSigmoid,
}

/// An expert for every token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// Its width.
    pub intermediate_size: usize,
    /// Whether a linear decides how much its output counts.
    pub gated: bool,
}

/// The feed-forward half of one block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FeedForward<'a> {
    /// One SwiGLU network.
    Dense {
        /// Its width.
        intermediate_size: usize,
    },
    /// A router and its experts.
    Moe(&'a Moe),
}

/// The feed-forward halves of all blocks.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FeedForwards {
    /// One SwiGLU network in each, of this width.
    Dense(usize),
    /// Experts in each.
    Moe(Moe),
    /// Experts in some.
    Mixed {
        moe: Moe,
        /// Width of the others.
        dense: usize,
        /// For each block, whether it has experts.
        sparse: Vec<bool>,
    },
}

impl FeedForwards {
    pub(super) fn from_fields(
        fields: &Fields<'_>,
        architecture: Architecture,
        num_layers: usize,
    ) -> Result<Self, ConfigError> {
        let (moe, sparse) = match architecture {
            Architecture::Qwen3 => return Ok(Self::Dense(dense_width(fields)?)),
            Architecture::Qwen3Moe => (Moe::qwen(fields, false)?, by_step(fields, num_layers)?),
            Architecture::Qwen3Next => {
                let shared = width(fields, "shared_expert_intermediate_size")?;
                let moe = Moe {
                    shared: Some(SharedExpert {
                        intermediate_size: shared,
                        gated: true,
                    }),
                    ..Moe::qwen(fields, true)?
                };
                (moe, by_step(fields, num_layers)?)
            }
            Architecture::Glm4MoeLite => (Moe::glm(fields)?, after_first(fields, num_layers)?),
        };
        Ok(match sparse.iter().all(|&sparse| sparse) {
            true => Self::Moe(moe),
            false => Self::Mixed {
                moe,
                dense: dense_width(fields)?,
                sparse,
            },
        })
    }

    pub(super) fn of(&self, layer: usize) -> FeedForward<'_> {
        match self {
            &Self::Dense(intermediate_size) => FeedForward::Dense { intermediate_size },
            Self::Moe(moe) => FeedForward::Moe(moe),
            Self::Mixed { moe, dense, sparse } => match sparse.get(layer) {
                Some(false) => FeedForward::Dense {
                    intermediate_size: *dense,
                },
                _ => FeedForward::Moe(moe),
            },
        }
    }

    pub(super) fn moe(&self) -> Option<&Moe> {
        match self {
            Self::Dense(_) => None,
            Self::Moe(moe) | Self::Mixed { moe, .. } => Some(moe),
        }
    }

    pub(super) fn moe_mut(&mut self) -> Option<&mut Moe> {
        match self {
            Self::Dense(_) => None,
            Self::Moe(moe) | Self::Mixed { moe, .. } => Some(moe),
        }
    }
}

impl Moe {
    /// As Qwen's files describe them; `normalize` is what they leave out.
    fn qwen(fields: &Fields<'_>, normalize: bool) -> Result<Self, ConfigError> {
        let experts = match fields.size("num_experts", limit::EXPERTS)? {
            Some(experts) => Some(experts),
            None => fields.size("num_local_experts", limit::EXPERTS)?,
        };
        Self::new(fields, required("num_experts", experts)?, normalize)
    }

    /// As GLM's files describe them.
    fn glm(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        for (field, known) in [("topk_method", "noaux_tc"), ("scoring_func", "sigmoid")] {
            if let Some(other) = fields.text(field)?.filter(|&method| method != known) {
                return Err(ConfigError::Unsupported {
                    field,
                    value: quoted(other),
                    supported: known,
                });
            }
        }
        let size = |name| fields.size(name, limit::EXPERTS);
        let experts = match size("n_routed_experts")? {
            Some(experts) => Some(experts),
            None => size("num_local_experts")?,
        };
        let mut moe = Self::new(fields, required("n_routed_experts", experts)?, true)?;
        moe.scoring = Scoring::CorrectedSigmoid;
        let scale = fields.positive("routed_scaling_factor")?;
        moe.routed_scaling_factor = scale.unwrap_or(1.0) as f32;
        let (groups, kept) = (
            size("n_group")?.unwrap_or(1),
            size("topk_group")?.unwrap_or(1),
        );
        let fits = kept <= groups
            && moe.num_experts.is_multiple_of(groups)
            && moe.experts_per_token <= moe.num_experts / groups * kept;
        if !fits {
            return Err(ConfigError::Implausible {
                field: "n_group",
                value: groups.to_string(),
                expected: format!(
                    "a divisor of the {} experts, of which {kept} groups hold {}",
                    moe.num_experts, moe.experts_per_token
                ),
            });
        }
        moe.groups = (groups > 1).then_some((groups, kept));
        moe.shared = size("n_shared_experts")?.map(|count| SharedExpert {
            intermediate_size: count * moe.intermediate_size,
            gated: false,
        });
        Ok(moe)
    }

    fn new(fields: &Fields<'_>, num_experts: usize, normalize: bool) -> Result<Self, ConfigError> {
        let per_token = fields.size("num_experts_per_tok", limit::EXPERTS)?;
        let moe = Self {
            num_experts,
            experts_per_token: required("num_experts_per_tok", per_token)?,
            intermediate_size: width(fields, "moe_intermediate_size")?,
            scoring: Scoring::Softmax,
            norm_topk_prob: fields.flag("norm_topk_prob")?.unwrap_or(normalize),
            routed_scaling_factor: 1.0,
            groups: None,
            shared: None,
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

fn width(fields: &Fields<'_>, name: &'static str) -> Result<usize, ConfigError> {
    required(name, fields.size(name, limit::INTERMEDIATE)?)
}

fn dense_width(fields: &Fields<'_>) -> Result<usize, ConfigError> {
    width(fields, "intermediate_size")
}

/// One of so many blocks has experts, beginning with the last of the first so many, and some have none all the same.
fn by_step(fields: &Fields<'_>, num_layers: usize) -> Result<Vec<bool>, ConfigError> {
    let step = fields.size("decoder_sparse_step", limit::LAYERS)?;
    let step = step.unwrap_or(1);
    let dense = fields.numbers("mlp_only_layers")?;
    let is_sparse = |layer: usize| {
        (layer + 1).is_multiple_of(step) && !dense.iter().any(|&dense| dense as usize == layer)
    };
    Ok((0..num_layers).map(is_sparse).collect())
}

/// All blocks but the first few have experts, or those that a list names.
fn after_first(fields: &Fields<'_>, num_layers: usize) -> Result<Vec<bool>, ConfigError> {
    const FIELD: &str = "mlp_layer_types";
    let Some(types) = fields.texts(FIELD)? else {
        // May be none, which is no size.
        let dense = fields.numbers("first_k_dense_replace")?;
        let dense = dense.first().map_or(0, |&dense| dense as usize);
        return Ok((0..num_layers).map(|layer| layer >= dense).collect());
    };
    super::one_per_layer(FIELD, &types, num_layers)?;
    let is_sparse = |&kind: &&str| match kind {
        "sparse" => Ok(true),
        "dense" => Ok(false),
        other => Err(ConfigError::Unsupported {
            field: FIELD,
            value: quoted(other),
            supported: "`dense` and `sparse`",
        }),
    };
    types.iter().map(is_sparse).collect()
}
