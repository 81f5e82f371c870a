use treillage_backend::{AttentionSpec, DeltaSpec, LatentSpec, Rope, RopePairing};
use treillage_checkpoint::{Attention, DeltaNet, LatentAttention, Mixer};

use super::{LinearPlan, Names, NormPlan, Role, Tensors};

/// A block's first half.
pub(crate) enum MixerLayout {
    Attention(AttentionLayout),
    Latent(LatentLayout),
    Delta(DeltaLayout),
}

pub(crate) struct AttentionLayout {
    pub(crate) spec: AttentionSpec,
    pub(crate) query: LinearPlan,
    pub(crate) key: LinearPlan,
    pub(crate) value: LinearPlan,
    pub(crate) query_norm: NormPlan,
    pub(crate) key_norm: NormPlan,
    pub(crate) output: LinearPlan,
}

pub(crate) struct LatentLayout {
    pub(crate) spec: LatentSpec,
    pub(crate) query_down: LinearPlan,
    pub(crate) query_norm: NormPlan,
    pub(crate) query_up: LinearPlan,
    pub(crate) latent_down: LinearPlan,
    pub(crate) latent_norm: NormPlan,
    pub(crate) latent_up: LinearPlan,
    pub(crate) output: LinearPlan,
}

pub(crate) struct DeltaLayout {
    pub(crate) spec: DeltaSpec,
    pub(crate) input: LinearPlan,
    pub(crate) gates: LinearPlan,
    /// `[channels, 1, kernel]`.
    pub(crate) conv: String,
    pub(crate) log_rate: String,
    pub(crate) time_bias: String,
    /// Gains as they are, whatever the other norms are.
    pub(crate) norm: String,
    pub(crate) output: LinearPlan,
}

impl MixerLayout {
    pub(super) fn new(names: &Names<'_>, mixer: Mixer<'_>) -> Self {
        match mixer {
            Mixer::Attention(attention) => Self::Attention(AttentionLayout::new(names, attention)),
            Mixer::Latent(latent) => Self::Latent(LatentLayout::new(names, latent)),
            Mixer::DeltaNet(net) => Self::Delta(DeltaLayout::new(names, net)),
        }
    }

    /// Lists its tensors in the order that a block computes in.
    pub(super) fn list(self, tensors: &mut Tensors) {
        match self {
            Self::Attention(layout) => {
                let linears = [layout.query, layout.key, layout.value, layout.output];
                tensors.linears.extend(linears);
                tensors.keep([layout.query_norm.name, layout.key_norm.name]);
            }
            Self::Latent(layout) => {
                // Those that read one input stand together.
                tensors.linears.extend([
                    layout.query_down,
                    layout.latent_down,
                    layout.query_up,
                    layout.latent_up,
                    layout.output,
                ]);
                tensors.keep([layout.query_norm.name, layout.latent_norm.name]);
            }
            Self::Delta(layout) => {
                tensors.linears.extend([layout.input, layout.output]);
                tensors.keep([layout.conv, layout.log_rate, layout.time_bias, layout.norm]);
                tensors.keep_linear(layout.gates);
            }
        }
    }
}

impl AttentionLayout {
    fn new(names: &Names<'_>, sizes: &Attention) -> Self {
        let spec = AttentionSpec {
            heads: sizes.num_heads,
            kv_heads: sizes.num_kv_heads,
            head_dim: sizes.head_dim,
            scale: (sizes.head_dim as f32).sqrt().recip(),
            rope: Rope {
                theta: sizes.rope_theta,
                dims: sizes.rotary_dim,
                pairing: RopePairing::HalfSplit,
            },
            output_gate: sizes.output_gate,
        };
        let (value, output) = match sizes.output_gate {
            true => (Role::GatedValue, Role::MixerOutput),
            false => (Role::Value, Role::AttentionOutput),
        };
        let hidden = names.hidden();
        let (wide, narrow) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        Self {
            query: names.linear("self_attn.q_proj", Role::Query, hidden, spec.query_width()),
            key: names.linear("self_attn.k_proj", Role::Key, hidden, narrow),
            value: names.linear("self_attn.v_proj", value, hidden, narrow),
            query_norm: names.norm("self_attn.q_norm"),
            key_norm: names.norm("self_attn.k_norm"),
            output: names.linear("self_attn.o_proj", output, wide, hidden),
            spec,
        }
    }
}

impl LatentLayout {
    fn new(names: &Names<'_>, sizes: &LatentAttention) -> Self {
        let spec = LatentSpec {
            heads: sizes.num_heads,
            nope_dim: sizes.qk_nope_head_dim,
            value_dim: sizes.v_head_dim,
            rank: sizes.kv_lora_rank,
            rope: Rope {
                theta: sizes.rope_theta,
                dims: sizes.qk_rope_head_dim,
                pairing: match sizes.rope_interleave {
                    true => RopePairing::Interleaved,
                    false => RopePairing::HalfSplit,
                },
            },
            scale: ((sizes.qk_nope_head_dim + sizes.qk_rope_head_dim) as f32)
                .sqrt()
                .recip(),
        };
        let (hidden, rank) = (names.hidden(), sizes.q_lora_rank);
        let queries = spec.heads * spec.query_dim();
        let (cached, expanded) = (spec.cached_width(), spec.expansion().out_features);
        let linear = |name: &str, role, input, output| {
            names.linear(&format!("self_attn.{name}"), role, input, output)
        };
        Self {
            query_down: linear("q_a_proj", Role::QueryDown, hidden, rank),
            query_norm: names.norm("self_attn.q_a_layernorm"),
            query_up: linear("q_b_proj", Role::QueryUp, rank, queries),
            latent_down: linear("kv_a_proj_with_mqa", Role::LatentDown, hidden, cached),
            latent_norm: names.norm("self_attn.kv_a_layernorm"),
            latent_up: linear("kv_b_proj", Role::LatentUp, spec.rank, expanded),
            output: linear(
                "o_proj",
                Role::MixerOutput,
                spec.heads * spec.value_dim,
                hidden,
            ),
            spec,
        }
    }
}

impl DeltaLayout {
    fn new(names: &Names<'_>, sizes: &DeltaNet) -> Self {
        let spec = DeltaSpec {
            key_heads: sizes.num_key_heads,
            value_heads: sizes.num_value_heads,
            key_dim: sizes.key_head_dim,
            value_dim: sizes.value_head_dim,
            kernel: sizes.conv_kernel,
        };
        let hidden = names.hidden();
        let linear = |name: &str, role, input, output| {
            names.linear(&format!("linear_attn.{name}"), role, input, output)
        };
        let tensor = |name: &str| names.tensor(&format!("linear_attn.{name}"));
        Self {
            input: linear("in_proj_qkvz", Role::DeltaInput, hidden, spec.projected()),
            gates: linear("in_proj_ba", Role::DeltaGates, hidden, 2 * spec.value_heads),
            conv: tensor("conv1d.weight"),
            log_rate: tensor("A_log"),
            time_bias: tensor("dt_bias"),
            norm: tensor("norm.weight"),
            output: linear("out_proj", Role::MixerOutput, spec.values(), hidden),
            spec,
        }
    }
}
