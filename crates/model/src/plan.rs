//! What tensors a model has and which of its linears read the same activations, from its config alone.

use treillage_backend::{LinearShape, Routing, SwiGlu};
use treillage_checkpoint::{FeedForward, ModelConfig};

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
}

/// One transformer block of a [`ModelPlan`].
#[derive(Clone, Debug, PartialEq)]
pub struct BlockPlan {
    /// Position in the model.
    pub index: usize,
    /// Linears to quantize, in the order the block computes them, experts in theirs.
    pub linears: Vec<LinearPlan>,
    /// The linear that sends tokens to experts, if the block has any; among [`kept`](Self::kept).
    pub router: Option<LinearPlan>,
    /// Tensors that are not quantized: norms and the router.
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
    /// The norm whose output it reads, if it reads a norm's.
    pub norm: Option<String>,
}

/// What a linear does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Attention's queries.
    Query,
    /// Attention's keys.
    Key,
    /// Attention's values.
    Value,
    /// From attention back to the residual stream.
    AttentionOutput,
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
    /// The normalised residual stream before attention.
    Attention,
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
    /// The last hidden state, normalised.
    Head,
}

impl LinearPlan {
    /// What it reads.
    pub fn input(&self) -> Input {
        let expert = self.expert.unwrap_or_default();
        match self.role {
            Role::Query | Role::Key | Role::Value => Input::Attention,
            Role::AttentionOutput => Input::AttentionOutput,
            Role::Gate | Role::Up | Role::Router => Input::FeedForward,
            Role::Down => Input::Down,
            Role::ExpertGate | Role::ExpertUp => Input::Expert(expert),
            Role::ExpertDown => Input::ExpertDown(expert),
            Role::Head => Input::Head,
        }
    }

    /// The space that its inputs are in.
    pub fn reads(&self) -> Space {
        match self.role {
            Role::Query | Role::Key | Role::Value => Space::Residual,
            Role::Gate | Role::Up | Role::ExpertGate | Role::ExpertUp => Space::Residual,
            Role::Router | Role::Head => Space::Residual,
            Role::AttentionOutput => Space::Values,
            Role::Down | Role::ExpertDown => Space::Fixed,
        }
    }

    /// The space that its outputs are in.
    pub fn writes(&self) -> Space {
        match self.role {
            Role::AttentionOutput | Role::Down | Role::ExpertDown => Space::Residual,
            Role::Value => Space::Values,
            Role::Query | Role::Key => Space::Fixed,
            Role::Gate | Role::Up | Role::ExpertGate | Role::ExpertUp => Space::Fixed,
            Role::Router | Role::Head => Space::Fixed,
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
        norm: Some(FINAL_NORM.to_owned()),
    }
}

/// One block's tensors, each in its place.
pub(crate) struct BlockLayout {
    pub(crate) attention_norm: String,
    pub(crate) query: LinearPlan,
    pub(crate) key: LinearPlan,
    pub(crate) value: LinearPlan,
    pub(crate) query_norm: String,
    pub(crate) key_norm: String,
    pub(crate) attention_output: LinearPlan,
    pub(crate) feed_forward_norm: String,
    /// What the feed-forward network widens the residual stream to, or each of its experts.
    pub(crate) hidden_to_inner: LinearShape,
    pub(crate) feed_forward: FeedForwardLayout,
}

/// [`BlockLayout`]'s second half.
pub(crate) enum FeedForwardLayout {
    Dense(SwiGlu<LinearPlan>),
    Moe {
        router: LinearPlan,
        routing: Routing,
        experts: Vec<SwiGlu<LinearPlan>>,
    },
}

impl BlockLayout {
    pub(crate) fn new(config: &ModelConfig, index: usize) -> Self {
        let block = format!("model.layers.{index}");
        let (hidden, attention) = (config.hidden_size, &config.attention);
        let heads = attention.num_heads * attention.head_dim;
        let kv_heads = attention.num_kv_heads * attention.head_dim;
        let shape = |in_features, out_features| LinearShape {
            in_features,
            out_features,
        };
        let attention_norm = format!("{block}.input_layernorm.weight");
        let feed_forward_norm = format!("{block}.post_attention_layernorm.weight");
        let linear = |name: &str, role, shape| LinearPlan {
            prefix: format!("{block}.{name}"),
            shape,
            role,
            expert: None,
            norm: match role {
                Role::Query | Role::Key | Role::Value => Some(attention_norm.clone()),
                Role::Gate | Role::Up | Role::ExpertGate | Role::ExpertUp | Role::Router => {
                    Some(feed_forward_norm.clone())
                }
                _ => None,
            },
        };
        let (inner, feed_forward) = match config.feed_forward(index) {
            FeedForward::Dense { intermediate_size } => {
                let mlp = SwiGlu {
                    gate: linear(
                        "mlp.gate_proj",
                        Role::Gate,
                        shape(hidden, intermediate_size),
                    ),
                    up: linear("mlp.up_proj", Role::Up, shape(hidden, intermediate_size)),
                    down: linear(
                        "mlp.down_proj",
                        Role::Down,
                        shape(intermediate_size, hidden),
                    ),
                };
                (intermediate_size, FeedForwardLayout::Dense(mlp))
            }
            FeedForward::Moe(moe) => {
                let inner = moe.intermediate_size;
                let of_expert = |e: usize, name: &str, role, shape| LinearPlan {
                    expert: Some(e),
                    ..linear(&format!("mlp.experts.{e}.{name}"), role, shape)
                };
                let experts = (0..moe.num_experts).map(|e| SwiGlu {
                    gate: of_expert(e, "gate_proj", Role::ExpertGate, shape(hidden, inner)),
                    up: of_expert(e, "up_proj", Role::ExpertUp, shape(hidden, inner)),
                    down: of_expert(e, "down_proj", Role::ExpertDown, shape(inner, hidden)),
                });
                let moe = FeedForwardLayout::Moe {
                    router: linear("mlp.gate", Role::Router, shape(hidden, moe.num_experts)),
                    routing: Routing::softmax(moe.experts_per_token, moe.norm_topk_prob),
                    experts: experts.collect(),
                };
                (inner, moe)
            }
        };
        Self {
            query: linear("self_attn.q_proj", Role::Query, shape(hidden, heads)),
            key: linear("self_attn.k_proj", Role::Key, shape(hidden, kv_heads)),
            value: linear("self_attn.v_proj", Role::Value, shape(hidden, kv_heads)),
            query_norm: format!("{block}.self_attn.q_norm.weight"),
            key_norm: format!("{block}.self_attn.k_norm.weight"),
            attention_output: linear(
                "self_attn.o_proj",
                Role::AttentionOutput,
                shape(heads, hidden),
            ),
            hidden_to_inner: shape(hidden, inner),
            feed_forward,
            attention_norm,
            feed_forward_norm,
        }
    }

    fn plan(self, index: usize) -> BlockPlan {
        let mut linears = vec![self.query, self.key, self.value, self.attention_output];
        let mut kept = vec![
            self.attention_norm,
            self.query_norm,
            self.key_norm,
            self.feed_forward_norm,
        ];
        let mut block_router = None;
        let mut add = |SwiGlu { gate, up, down }| linears.extend([gate, up, down]);
        match self.feed_forward {
            FeedForwardLayout::Dense(mlp) => add(mlp),
            FeedForwardLayout::Moe {
                router, experts, ..
            } => {
                kept.push(format!("{}.weight", router.prefix));
                block_router = Some(router);
                experts.into_iter().for_each(add);
            }
        }
        BlockPlan {
            index,
            linears,
            router: block_router,
            kept,
        }
    }
}
