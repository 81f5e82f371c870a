//! A transformer block: `x + mixer(norm(x))`, then `x + feed_forward(norm(x))`.

mod attention;
mod delta;
mod feed_forward;
mod latent;
mod moments;

use treillage_backend::{Inference, MixerSpec};
use treillage_checkpoint::ModelConfig;

use crate::{
    Error, Weights,
    plan::{BlockLayout, LinearPlan, MixerLayout, NormPlan},
    weights::{load_linear, load_norm},
};
use attention::Attention;
use delta::DeltaNet;
use feed_forward::FeedForward;
use latent::LatentAttention;

pub use moments::BlockMoments;

/// One transformer block of a model, on a backend.
pub struct Block<B: Inference> {
    mixer: Mixer<B>,
    /// Not there if only the mixer was loaded.
    feed_forward: Option<FeedForward<B>>,
    hidden: usize,
    index: usize,
}

/// How tokens learn of those before them.
enum Mixer<B: Inference> {
    Attention(Attention<B>),
    Latent(LatentAttention<B>),
    Delta(DeltaNet<B>),
}

/// Where the parts of a block come from.
struct Loader<'a, B> {
    backend: &'a B,
    weights: &'a dyn Weights,
    config: &'a ModelConfig,
}

impl<B: Inference> Loader<'_, B> {
    fn linear(&self, plan: &LinearPlan) -> Result<B::Linear, Error> {
        load_linear(self.backend, self.weights, &plan.prefix, plan.shape)
    }

    /// A norm over `len` values with the model's epsilon.
    fn norm(&self, plan: &NormPlan, len: usize) -> Result<B::Norm, Error> {
        let epsilon = self.config.rms_norm_eps;
        load_norm(self.backend, self.weights, plan, len, epsilon)
    }
}

impl<B: Inference> Block<B> {
    /// Loads block `index` of the model that `config` describes.
    ///
    /// # Errors
    /// If a weight is missing or does not fit; the message names it.
    pub fn load(
        backend: &B,
        weights: &dyn Weights,
        config: &ModelConfig,
        index: usize,
    ) -> Result<Self, Error> {
        let mut block = Self::load_mixer(backend, weights, config, index)?;
        let loader = Loader {
            backend,
            weights,
            config,
        };
        block.feed_forward = Some(FeedForward::load(&loader, BlockLayout::new(config, index))?);
        Ok(block)
    }

    /// The same without its feed-forward network, by far the larger part: it ends with `x + mixer(norm(x))`.
    ///
    /// # Errors
    /// As [`Block::load`].
    pub fn load_mixer(
        backend: &B,
        weights: &dyn Weights,
        config: &ModelConfig,
        index: usize,
    ) -> Result<Self, Error> {
        let layout = BlockLayout::new(config, index);
        let loader = Loader {
            backend,
            weights,
            config,
        };
        let norm = loader.norm(&layout.mixer_norm, config.hidden_size)?;
        Ok(Self {
            mixer: match &layout.mixer {
                MixerLayout::Attention(layout) => {
                    Mixer::Attention(Attention::load(&loader, norm, layout)?)
                }
                MixerLayout::Latent(layout) => {
                    Mixer::Latent(LatentAttention::load(&loader, norm, layout)?)
                }
                MixerLayout::Delta(layout) => Mixer::Delta(DeltaNet::load(&loader, norm, layout)?),
            },
            feed_forward: None,
            hidden: config.hidden_size,
            index,
        })
    }

    /// An empty cache for up to `capacity` tokens of one sequence.
    ///
    /// # Errors
    /// If the backend has no room for it.
    pub fn new_cache(&self, backend: &B, capacity: usize) -> Result<B::Cache, Error> {
        let spec = match &self.mixer {
            Mixer::Attention(attention) => MixerSpec::Attention(attention.spec),
            Mixer::Latent(latent) => MixerSpec::Latent(latent.spec),
            Mixer::Delta(net) => MixerSpec::Delta(net.spec),
        };
        Ok(backend.new_cache(&spec, capacity)?)
    }

    /// The residual stream after the block: `x`, `[tokens, hidden]`, continues the sequence in `cache`, which takes
    /// the new tokens up.
    ///
    /// # Errors
    /// If the tokens do not fit the cache, or the backend fails.
    pub fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        cache: &mut B::Cache,
    ) -> Result<B::Tensor, Error> {
        backend.enter_block(self.index);
        let x = match &self.mixer {
            Mixer::Attention(attention) => attention.forward(backend, x, cache)?,
            Mixer::Latent(latent) => latent.forward(backend, x, cache)?,
            Mixer::Delta(net) => net.forward(backend, x, cache)?,
        };
        match &self.feed_forward {
            Some(feed_forward) => feed_forward.forward(backend, &x),
            None => Ok(x),
        }
    }
}
