use treillage_backend::{Error as BackendError, Inference, LinearWeights, Quantization};
use treillage_checkpoint::ModelConfig;

use crate::{
    Error, Weights,
    plan::{self, EMBEDDING, FINAL_NORM},
    weights::{checked_linear, load_norm},
};

/// The first step of a model: from token ids to the residual stream.
pub struct Embedding<B: Inference> {
    table: B::Embedding,
}

impl<B: Inference> Embedding<B> {
    /// Loads the embedding of the model that `config` describes.
    ///
    /// # Errors
    /// If the table is missing or does not fit.
    pub fn load(backend: &B, weights: &dyn Weights, config: &ModelConfig) -> Result<Self, Error> {
        let table = weights.dense(EMBEDDING, config.vocab_size, config.hidden_size)?;
        for (axis, expected, found) in [
            ("rows", config.vocab_size, table.rows()),
            ("columns", config.hidden_size, table.cols()),
        ] {
            BackendError::check_shape(axis, expected, found).map_err(Error::weight(EMBEDDING))?;
        }
        let table = backend
            .load_embedding(table)
            .map_err(Error::weight(EMBEDDING))?;
        Ok(Self { table })
    }

    /// `[ids, hidden]`: one row per id.
    ///
    /// # Errors
    /// If an id is outside the vocabulary.
    pub fn forward(&self, backend: &B, ids: &[u32]) -> Result<B::Tensor, Error> {
        Ok(backend.embed(&self.table, ids)?)
    }
}

/// The last step of a model: from the residual stream to logits.
pub struct Head<B: Inference> {
    norm: B::Norm,
    linear: B::Linear,
    vocabulary: usize,
    hidden: usize,
}

impl<B: Inference> Head<B> {
    /// Loads the final norm and the head of the model that `config` describes. Where embeddings are tied and the
    /// checkpoint has no head of its own, the head is the embedding.
    ///
    /// # Errors
    /// If one is missing or does not fit.
    pub fn load(backend: &B, weights: &dyn Weights, config: &ModelConfig) -> Result<Self, Error> {
        let plan = plan::head(config);
        let (vocabulary, hidden) = (config.vocab_size, config.hidden_size);
        let linear = if config.tie_word_embeddings && !weights.has_linear(&plan.prefix) {
            LinearWeights::Dense {
                weight: weights.dense(EMBEDDING, vocabulary, hidden)?,
                bias: None,
            }
        } else {
            checked_linear(weights, &plan.prefix, plan.shape)?
        };
        Ok(Self {
            norm: load_norm(backend, weights, FINAL_NORM, hidden, config.rms_norm_eps)?,
            linear: backend
                .load_linear(linear, plan.shape)
                .map_err(Error::weight(&plan.prefix))?,
            vocabulary,
            hidden,
        })
    }

    /// Number of logits of a token.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// `[tokens, vocabulary]` from the residual stream `[tokens, hidden]`.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, Error> {
        let [logits] = backend.norm_project(x, &self.norm, [&self.linear])?;
        Ok(logits)
    }
}

impl<B: Quantization> Head<B> {
    /// From now on gathers the second moment of what the head reads, [`plan::Input::Head`].
    ///
    /// # Errors
    /// If the backend fails.
    pub fn watch(&mut self, backend: &B) -> Result<B::Moments, Error> {
        let moments = backend.new_moments(self.hidden)?;
        backend.watch(&mut self.linear, &moments)?;
        Ok(moments)
    }
}
