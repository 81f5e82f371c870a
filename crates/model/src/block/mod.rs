//! A transformer block: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.

mod attention;
mod feed_forward;
mod moments;

use treillage_backend::Inference;
use treillage_checkpoint::ModelConfig;

use crate::{Error, Weights, plan::BlockLayout};
use attention::Attention;
use feed_forward::FeedForward;

pub use moments::BlockMoments;

/// One transformer block of a model, on a backend.
pub struct Block<B: Inference> {
    attention: Attention<B>,
    feed_forward: FeedForward<B>,
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
        let layout = BlockLayout::new(config, index);
        Ok(Self {
            attention: Attention::load(backend, weights, config, &layout)?,
            feed_forward: FeedForward::load(backend, weights, config, layout)?,
        })
    }

    /// An empty cache for up to `capacity` tokens of one sequence.
    ///
    /// # Errors
    /// If the backend has no room for it.
    pub fn new_cache(&self, backend: &B, capacity: usize) -> Result<B::Cache, Error> {
        self.attention.new_cache(backend, capacity)
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
        let x = self.attention.forward(backend, x, cache)?;
        self.feed_forward.forward(backend, &x)
    }
}
