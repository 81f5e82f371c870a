//! What tensors a model has and which of its linears read the same activations, from its config alone.

mod layout;

use treillage_backend::LinearShape;
use treillage_checkpoint::{Mixer, ModelConfig};

pub(crate) use layout::{
    AttentionLayout, BlockLayout, DeltaLayout, FeedForwardLayout, LatentLayout, MixerLayout,
    MoeLayout, SharedLayout,
};

/// The linears of a model that can be quantized, and the names of the tensors that stay as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelPlan {
    /// The transformer blocks, in order.
    pub blocks: Vec<BlockPlan>,
    /// The projection to logits.
    pub head: LinearPlan,
    /// Tensors outside the blocks that are not quantized.
    pub kept: Vec<String>,
    /// Whether a checkpoint without a head uses its embedding as one.
    pub tied: bool,
    /// Width of the heads that [`Space::Values`] consists of; `None` if no block has such values.
    pub value_dim: Option<usize>,
}

/// One transformer block of a [`ModelPlan`].
#[derive(Clone, Debug, PartialEq)]
pub struct BlockPlan {
    /// Position in the model.
    pub index: usize,
    /// Linears to quantize, in the order the block computes them, experts in theirs.
    pub linears: Vec<LinearPlan>,
    /// Linears that are not quantized, being small and sensitive: routers and gates.
    pub kept_linears: Vec<LinearPlan>,
    /// Tensors that are not quantized: norms, weights of those linears, and whatever is no linear's.
    pub kept: Vec<String>,
}

/// One linear of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearPlan {
    /// What its tensors' names begin with.
    pub prefix: String,
    /// Its size.
    pub shape: LinearShape,
    /// What it does.
    pub role: Role,
    /// Which expert it belongs to, if to one.
    pub expert: Option<usize>,
    /// The norm whose output it reads, if it reads that of one over the residual stream.
    pub norm: Option<NormPlan>,
}

/// An RMS norm of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormPlan {
    /// The tensor of its gains.
    pub name: String,
    /// Whether gains are stored less one.
    pub zero_centred: bool,
}

impl NormPlan {
    /// The gains that stored values stand for.
    pub fn gains(&self, mut stored: Vec<f32>) -> Vec<f32> {
        if self.zero_centred {
            stored.iter_mut().for_each(|gain| *gain += 1.0);
        }
        stored
    }

    /// What is stored for a gain of one.
    pub fn neutral(&self) -> f32 {
        if self.zero_centred { 0.0 } else { 1.0 }
    }
}

/// What a linear does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Attention's queries, with gates of its output or not.
    Query,
    /// Attention's keys.
    Key,
    /// Attention's values.
    Value,
    /// Attention's values where gates follow, channel by channel.
    GatedValue,
    /// From attention back to the residual stream.
    AttentionOutput,
    /// To what latent attention's queries are made of.
    QueryDown,
    /// Latent attention's queries.
    QueryUp,
    /// To latents, and the keys that all heads share.
    LatentDown,
    /// Keys and values from latents.
    LatentUp,
    /// A gated DeltaNet's queries, keys, values and output gates.
    DeltaInput,
    /// How fast a gated DeltaNet forgets, and how much it writes.
    DeltaGates,
    /// From what gates or a latent's values have made back to the residual stream.
    MixerOutput,
    /// A dense network's gate.
    Gate,
    /// A dense network's projection up.
    Up,
    /// A dense network's projection down.
    Down,
    /// An expert's gate.
    ExpertGate,
    /// An expert's projection up.
    ExpertUp,
    /// An expert's projection down.
    ExpertDown,
    /// The gate of the expert that every token visits.
    SharedGate,
    /// That expert's projection up.
    SharedUp,
    /// That expert's projection down.
    SharedDown,
    /// How much that expert's output counts.
    SharedScale,
    /// From the feed-forward network's input to the experts' scores.
    Router,
    /// From the last hidden state to logits.
    Head,
}

/// A space of activations, for those who change its basis: whoever writes to it and whoever reads from it must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The residual stream, which the embedding, attention and the feed-forward networks write to. Norms read it too;
    /// rotations leave them alone but for their gains.
    Residual,
    /// Values of attention, head by head: averaged over tokens, then concatenated.
    Values,
    /// One whose basis means something, because something other than a linear works on its channels: rotary positions,
    /// SiLU, softmax.
    Fixed,
}

/// The activations that a linear reads. Linears with the same input share a Hessian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// The normalised residual stream before attention or a DeltaNet.
    Attention,
    /// What latent attention's queries are made of, normalised.
    QueryLatent,
    /// Latents, normalised.
    Latent,
    /// The concatenated heads.
    AttentionOutput,
    /// The normalised residual stream before the feed-forward network: of every token, also where experts follow.
    FeedForward,
    /// A dense network's inner activations.
    Down,
    /// [`Input::FeedForward`] of the tokens routed to one expert.
    Expert(usize),
    /// Inner activations of one expert.
    ExpertDown(usize),
    /// Inner activations of the expert that every token visits.
    SharedDown,
    /// The last hidden state, normalised.
    Head,
}

impl Input {
    /// Whether a block's mixer reads it, which does not know of the feed-forward network.
    pub fn is_mixers(self) -> bool {
        matches!(
            self,
            Self::Attention | Self::QueryLatent | Self::Latent | Self::AttentionOutput
        )
    }
}

impl LinearPlan {
    /// What it reads.
    pub fn input(&self) -> Input {
        let expert = self.expert.unwrap_or_default();
        match self.role {
            Role::Query | Role::Key | Role::Value | Role::GatedValue => Input::Attention,
            Role::QueryDown | Role::LatentDown => Input::Attention,
            Role::DeltaInput | Role::DeltaGates => Input::Attention,
            Role::QueryUp => Input::QueryLatent,
            Role::LatentUp => Input::Latent,
            Role::AttentionOutput | Role::MixerOutput => Input::AttentionOutput,
            Role::Gate | Role::Up | Role::Router => Input::FeedForward,
            Role::SharedGate | Role::SharedUp | Role::SharedScale => Input::FeedForward,
            Role::Down => Input::Down,
            Role::ExpertGate | Role::ExpertUp => Input::Expert(expert),
            Role::ExpertDown => Input::ExpertDown(expert),
            Role::SharedDown => Input::SharedDown,
            Role::Head => Input::Head,
        }
    }

    /// The space that its inputs are in.
    pub fn reads(&self) -> Space {
        match (self.role, self.input()) {
            (Role::AttentionOutput, _) => Space::Values,
            (_, Input::Attention | Input::FeedForward | Input::Expert(_) | Input::Head) => {
                Space::Residual
            }
            _ => Space::Fixed,
        }
    }

    /// The space that its outputs are in.
    pub fn writes(&self) -> Space {
        match self.role {
            Role::AttentionOutput | Role::MixerOutput => Space::Residual,
            Role::Down | Role::ExpertDown | Role::SharedDown => Space::Residual,
            Role::Value => Space::Values,
            _ => Space::Fixed,
        }
    }
}

/// The plan of the model that `config` describes.
pub fn plan(config: &ModelConfig) -> ModelPlan {
    ModelPlan {
        blocks: (0..config.num_layers)
            .map(|index| BlockLayout::new(config, index).plan(index))
            .collect(),
        head: head(config),
        kept: vec![EMBEDDING.to_owned(), FINAL_NORM.to_owned()],
        tied: config.tie_word_embeddings,
        value_dim: (0..config.num_layers).find_map(|layer| match config.mixer(layer) {
            Mixer::Attention(attention) if !attention.output_gate => Some(attention.head_dim),
            _ => None,
        }),
    }
}

/// The table of token embeddings `[vocabulary, hidden]`.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// Weight of the norm before the head `[hidden]`.
pub const FINAL_NORM: &str = "model.norm.weight";

/// The head of the model that `config` describes.
pub(crate) fn head(config: &ModelConfig) -> LinearPlan {
    LinearPlan {
        prefix: "lm_head".to_owned(),
        shape: LinearShape {
            in_features: config.hidden_size,
            out_features: config.vocab_size,
        },
        role: Role::Head,
        expert: None,
        norm: Some(final_norm(config)),
    }
}

/// The norm before the head.
pub(crate) fn final_norm(config: &ModelConfig) -> NormPlan {
    NormPlan {
        name: FINAL_NORM.to_owned(),
        zero_centred: config.zero_centred_norms,
    }
}
