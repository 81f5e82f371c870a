use std::sync::Arc;

use treillage_backend::{
    DenseData, DenseWeights, Error as BackendError, Inference, LinearShape, LinearWeights,
    Quantization,
};
use treillage_checkpoint::ModelConfig;

use crate::{
    Error, Weights,
    plan::{self, EMBEDDING},
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

    /// `[tokens, hidden]`: one row per token that the backend chose.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn follow(&self, backend: &B, tokens: &B::Tokens) -> Result<B::Tensor, Error> {
        Ok(backend.embed_tokens(&self.table, tokens)?)
    }
}

/// The last step of a model: from the residual stream to logits.
pub struct Head<B: Inference> {
    norm: B::Norm,
    linear: B::Linear,
    vocabulary: usize,
}

impl<B: Inference> Head<B> {
    /// Loads the final norm and the head of the model that `config` describes. Where embeddings are tied and the
    /// checkpoint has no head of its own, the head is the embedding.
    ///
    /// # Errors
    /// If one is missing or does not fit.
    pub fn load(backend: &B, weights: &dyn Weights, config: &ModelConfig) -> Result<Self, Error> {
        let plan = plan::head(config);
        let norm = plan::final_norm(config);
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
            norm: load_norm(backend, weights, &norm, hidden, config.rms_norm_eps)?,
            linear: backend
                .load_linear(linear, plan.shape)
                .map_err(Error::weight(&plan.prefix))?,
            vocabulary,
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
    /// A head that gathers the second moment of what the model's head reads, [`plan::Input::Head`], and gives a single
    /// logit of zero: calibration has no use for a whole vocabulary of them, which costs as much as some blocks.
    ///
    /// # Errors
    /// If the final norm is missing or does not fit, or the backend fails.
    pub fn probe(
        backend: &B,
        weights: &dyn Weights,
        config: &ModelConfig,
    ) -> Result<(Self, B::Moments), Error> {
        let (norm, hidden) = (plan::final_norm(config), config.hidden_size);
        let shape = LinearShape {
            in_features: hidden,
            out_features: 1,
        };
        let zeros = LinearWeights::Dense {
            weight: DenseWeights::new(1, hidden, DenseData::F32(Arc::new(vec![0.0; hidden])))?,
            bias: None,
        };
        let mut linear = backend.load_linear(zeros, shape)?;
        let moments = backend.new_moments(hidden)?;
        backend.watch(&mut linear, &moments)?;
        let head = Self {
            norm: load_norm(backend, weights, &norm, hidden, config.rms_norm_eps)?,
            linear,
            vocabulary: 1,
        };
        Ok((head, moments))
    }
}
