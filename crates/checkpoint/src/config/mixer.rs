use super::{
    Architecture, ConfigError,
    fields::{Fields, required},
    limit,
};
use crate::error::quoted;

/// Grouped-query attention with a norm on each head's query and key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides [`Attention::num_heads`].
    pub num_kv_heads: usize,
    /// Width of a head; even. Not always `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Values of a head, its first, that have positions; even.
    pub rotary_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether each query head comes with a gate of its output.
    pub output_gate: bool,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// Multi-head latent attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentAttention {
    /// Heads.
    pub num_heads: usize,
    /// Width that queries are made of.
    pub q_lora_rank: usize,
    /// Width that keys and values are made of.
    pub kv_lora_rank: usize,
    /// Values of a query and of a key that have no position.
    pub qk_nope_head_dim: usize,
    /// Values of a query, and of the key that all heads share, that have; even.
    pub qk_rope_head_dim: usize,
    /// Width of a head's value.
    pub v_head_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether neighbours rotate together, not halves.
    pub rope_interleave: bool,
}

/// A gated DeltaNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaNet {
    /// Heads of queries and keys; divides [`DeltaNet::num_value_heads`].
    pub num_key_heads: usize,
    /// Heads of values.
    pub num_value_heads: usize,
    /// Width of a query and a key.
    pub key_head_dim: usize,
    /// Width of a value.
    pub value_head_dim: usize,
    /// Tokens that the convolution sees.
    pub conv_kernel: usize,
}

/// How tokens of one block learn of those before them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mixer<'a> {
    /// By keys and values.
    Attention(&'a Attention),
    /// By latents.
    Latent(&'a LatentAttention),
    /// By a recurrent state.
    DeltaNet(&'a DeltaNet),
}

/// The first halves of all blocks.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mixers {
    Attention(Attention),
    Latent(LatentAttention),
    /// Attention in some.
    Hybrid {
        attention: Attention,
        delta_net: DeltaNet,
        /// For each block, whether it has attention.
        full: Vec<bool>,
    },
}

impl Mixers {
    pub(super) fn from_fields(
        fields: &Fields<'_>,
        architecture: Architecture,
        num_layers: usize,
    ) -> Result<Self, ConfigError> {
        let is_full = |kind: &str| (kind == "full_attention").then_some(true);
        match architecture {
            Architecture::Qwen3 | Architecture::Qwen3Moe => {
                layer_types(fields, "`full_attention`", is_full)?;
                check_whole_rotation(fields)?;
                Ok(Self::Attention(Attention::from_fields(fields)?))
            }
            Architecture::Glm4MoeLite => {
                layer_types(fields, "`full_attention`", is_full)?;
                check_whole_rotation(fields)?;
                Ok(Self::Latent(LatentAttention::from_fields(fields)?))
            }
            Architecture::Qwen3Next => Ok(Self::Hybrid {
                attention: Attention {
                    output_gate: true,
                    ..Attention::from_fields(fields)?
                },
                delta_net: DeltaNet::from_fields(fields)?,
                full: full_layers(fields, num_layers)?,
            }),
        }
    }

    pub(super) fn of(&self, layer: usize) -> Mixer<'_> {
        match self {
            Self::Attention(attention) => Mixer::Attention(attention),
            Self::Latent(latent) => Mixer::Latent(latent),
            Self::Hybrid {
                attention,
                delta_net,
                full,
            } => match full.get(layer) {
                Some(true) => Mixer::Attention(attention),
                _ => Mixer::DeltaNet(delta_net),
            },
        }
    }

    pub(super) fn attention(&self) -> Option<&Attention> {
        match self {
            Self::Attention(attention) | Self::Hybrid { attention, .. } => Some(attention),
            Self::Latent(_) => None,
        }
    }
}

impl Attention {
    fn from_fields(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let size = |name, limit| required(name, fields.size(name, limit)?);
        let head_dim = size("head_dim", limit::HEAD_DIM)?;
        check_even("head_dim", head_dim)?;
        let attention = Self {
            num_heads: size("num_attention_heads", limit::HEADS)?,
            num_kv_heads: size("num_key_value_heads", limit::HEADS)?,
            head_dim,
            rotary_dim: rotary_dim(fields, head_dim)?,
            rope_theta: rope_theta(fields)?,
            output_gate: false,
            bias: fields.flag("attention_bias")?.unwrap_or(false),
        };
        check_divides(
            "num_key_value_heads",
            attention.num_kv_heads,
            attention.num_heads,
        )?;
        Ok(attention)
    }
}

impl LatentAttention {
    fn from_fields(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let size = |name, limit| required(name, fields.size(name, limit)?);
        let rope = size("qk_rope_head_dim", limit::HEAD_DIM)?;
        check_even("qk_rope_head_dim", rope)?;
        Ok(Self {
            num_heads: size("num_attention_heads", limit::HEADS)?,
            q_lora_rank: size("q_lora_rank", limit::HIDDEN)?,
            kv_lora_rank: size("kv_lora_rank", limit::HIDDEN)?,
            qk_nope_head_dim: size("qk_nope_head_dim", limit::HEAD_DIM)?,
            qk_rope_head_dim: rope,
            v_head_dim: size("v_head_dim", limit::HEAD_DIM)?,
            rope_theta: rope_theta(fields)?,
            rope_interleave: fields.flag("rope_interleave")?.unwrap_or(true),
        })
    }
}

impl DeltaNet {
    fn from_fields(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let size = |name, limit| required(name, fields.size(name, limit)?);
        let net = Self {
            num_key_heads: size("linear_num_key_heads", limit::HEADS)?,
            num_value_heads: size("linear_num_value_heads", limit::HEADS)?,
            key_head_dim: size("linear_key_head_dim", limit::HEAD_DIM)?,
            value_head_dim: size("linear_value_head_dim", limit::HEAD_DIM)?,
            conv_kernel: size("linear_conv_kernel_dim", limit::KERNEL)?,
        };
        check_divides(
            "linear_num_key_heads",
            net.num_key_heads,
            net.num_value_heads,
        )?;
        Ok(net)
    }
}

fn check_even(field: &'static str, value: usize) -> Result<(), ConfigError> {
    match value.is_multiple_of(2) {
        true => Ok(()),
        false => Err(ConfigError::Implausible {
            field,
            value: value.to_string(),
            expected: "an even number".to_owned(),
        }),
    }
}

fn check_divides(field: &'static str, value: usize, heads: usize) -> Result<(), ConfigError> {
    match heads.is_multiple_of(value) {
        true => Ok(()),
        false => Err(ConfigError::Implausible {
            field,
            value: value.to_string(),
            expected: format!("a divisor of the {heads} heads"),
        }),
    }
}

/// What `read` makes of each entry of `layer_types`, if there are any.
fn layer_types<T>(
    fields: &Fields<'_>,
    supported: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<Vec<T>>, ConfigError> {
    const FIELD: &str = "layer_types";
    let Some(types) = fields.texts(FIELD)? else {
        return Ok(None);
    };
    let known = types.iter().map(|&kind| {
        read(kind).ok_or_else(|| ConfigError::Unsupported {
            field: FIELD,
            value: quoted(kind),
            supported,
        })
    });
    known.collect::<Result<_, _>>().map(Some)
}

/// Which blocks of a hybrid have attention: those that a list names, or the last of each so many.
fn full_layers(fields: &Fields<'_>, num_layers: usize) -> Result<Vec<bool>, ConfigError> {
    let kinds = "`full_attention` and `linear_attention`";
    let listed = layer_types(fields, kinds, |kind| match kind {
        "full_attention" => Some(true),
        "linear_attention" => Some(false),
        _ => None,
    })?;
    if let Some(full) = listed {
        super::one_per_layer("layer_types", &full, num_layers)?;
        return Ok(full);
    }
    let interval = fields.size("full_attention_interval", limit::LAYERS)?;
    let interval = required("full_attention_interval", interval)?;
    let is_full = |layer: usize| (layer + 1).is_multiple_of(interval);
    Ok((0..num_layers).map(is_full).collect())
}

/// The share of a head that rotates, from either spelling.
fn rotary_factor(fields: &Fields<'_>) -> Result<f64, ConfigError> {
    for fields in [fields.object("rope_parameters")?, Some(*fields)] {
        let factor = match fields {
            Some(fields) => fields.positive("partial_rotary_factor")?,
            None => None,
        };
        if let Some(factor) = factor {
            return Ok(factor);
        }
    }
    Ok(1.0)
}

fn rotary_dim(fields: &Fields<'_>, head_dim: usize) -> Result<usize, ConfigError> {
    let factor = rotary_factor(fields)?;
    let dim = (head_dim as f64 * factor) as usize;
    if !(2..=head_dim).contains(&dim) || !dim.is_multiple_of(2) {
        return Err(ConfigError::Implausible {
            field: "partial_rotary_factor",
            value: factor.to_string(),
            expected: format!("an even share of heads of {head_dim}"),
        });
    }
    Ok(dim)
}

fn check_whole_rotation(fields: &Fields<'_>) -> Result<(), ConfigError> {
    match rotary_factor(fields)? {
        1.0 => Ok(()),
        factor => Err(ConfigError::Unsupported {
            field: "partial_rotary_factor",
            value: factor.to_string(),
            supported: "1",
        }),
    }
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
