//! The tensors of a block, each in its place: names and sizes as checkpoints have them.

mod feed_forward;
mod mixer;

use treillage_backend::LinearShape;
use treillage_checkpoint::ModelConfig;

pub(crate) use feed_forward::{FeedForwardLayout, MoeLayout, SharedLayout};
pub(crate) use mixer::{AttentionLayout, DeltaLayout, LatentLayout, MixerLayout};

use super::{BlockPlan, Input, LinearPlan, NormPlan, Role};

/// One block's tensors, each in its place.
pub(crate) struct BlockLayout {
    pub(crate) mixer_norm: NormPlan,
    pub(crate) mixer: MixerLayout,
    pub(crate) feed_forward_norm: NormPlan,
    pub(crate) feed_forward: FeedForwardLayout,
}

/// Makes the names of one block.
struct Names<'a> {
    config: &'a ModelConfig,
    block: String,
}

/// What a plan of a block is put together from.
#[derive(Default)]
struct Tensors {
    linears: Vec<LinearPlan>,
    kept_linears: Vec<LinearPlan>,
    kept: Vec<String>,
}

impl BlockLayout {
    pub(crate) fn new(config: &ModelConfig, index: usize) -> Self {
        let names = Names {
            config,
            block: format!("model.layers.{index}"),
        };
        Self {
            mixer_norm: names.mixer_norm(),
            mixer: MixerLayout::new(&names, config.mixer(index)),
            feed_forward_norm: names.feed_forward_norm(),
            feed_forward: FeedForwardLayout::new(&names, config.feed_forward(index)),
        }
    }

    pub(super) fn plan(self, index: usize) -> BlockPlan {
        let mut tensors = Tensors::default();
        tensors.keep([self.mixer_norm.name]);
        self.mixer.list(&mut tensors);
        tensors.keep([self.feed_forward_norm.name]);
        self.feed_forward.list(&mut tensors);
        BlockPlan {
            index,
            linears: tensors.linears,
            kept_linears: tensors.kept_linears,
            kept: tensors.kept,
        }
    }
}

impl Tensors {
    fn keep(&mut self, names: impl IntoIterator<Item = String>) {
        self.kept.extend(names);
    }

    fn keep_linear(&mut self, linear: LinearPlan) {
        self.kept.push(format!("{}.weight", linear.prefix));
        self.kept_linears.push(linear);
    }
}

impl Names<'_> {
    fn hidden(&self) -> usize {
        self.config.hidden_size
    }

    fn tensor(&self, name: &str) -> String {
        format!("{}.{name}", self.block)
    }

    /// The norm `name`, stored as most norms of the model are.
    fn norm(&self, name: &str) -> NormPlan {
        NormPlan {
            name: self.tensor(&format!("{name}.weight")),
            zero_centred: self.config.zero_centred_norms,
        }
    }

    fn mixer_norm(&self) -> NormPlan {
        self.norm("input_layernorm")
    }

    fn feed_forward_norm(&self) -> NormPlan {
        self.norm("post_attention_layernorm")
    }

    fn linear(
        &self,
        name: &str,
        role: Role,
        in_features: usize,
        out_features: usize,
    ) -> LinearPlan {
        let mut plan = LinearPlan {
            prefix: self.tensor(name),
            shape: LinearShape {
                in_features,
                out_features,
            },
            role,
            expert: None,
            norm: None,
        };
        plan.norm = match plan.input() {
            Input::Attention => Some(self.mixer_norm()),
            Input::FeedForward | Input::Expert(_) => Some(self.feed_forward_norm()),
            _ => None,
        };
        plan
    }
}
