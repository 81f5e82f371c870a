use std::sync::Arc;

use treillage_backend::{
    DenseData, DenseWeights, Error as BackendError, Inference, LinearShape, LinearWeights,
};
use treillage_checkpoint::{Checkpoint, DenseData as Stored, DenseTensor, StoredLinear};

use crate::Error;

/// Where a model's weights come from, by their names in a Hugging Face checkpoint.
///
/// A [`Checkpoint`] is the usual source. Others overlay one, as quantization does with freshly encoded linears, or make
/// weights up, as benchmarks do. What they return is checked against the model's sizes when it is loaded.
pub trait Weights: Send + Sync {
    /// The linear whose tensors' names begin with `prefix`, such as `model.layers.0.self_attn.q_proj`.
    ///
    /// # Errors
    /// If it is missing or damaged; the message names it.
    fn linear(&self, prefix: &str, shape: LinearShape) -> Result<LinearWeights, Error>;

    /// The dense matrix `[rows, cols]` called `name`, such as `model.embed_tokens.weight`.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<DenseWeights, Error>;

    /// The `len` values called `name`, such as `model.norm.weight`.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error>;

    /// Whether there is a linear under `prefix`, dense or packed.
    fn has_linear(&self, prefix: &str) -> bool;
}

impl Weights for Checkpoint {
    fn linear(&self, prefix: &str, shape: LinearShape) -> Result<LinearWeights, Error> {
        match Checkpoint::linear(self, prefix, shape.in_features, shape.out_features)? {
            StoredLinear::Dense { weight, bias } => Ok(LinearWeights::Dense {
                weight: matrix(weight, shape.out_features, shape.in_features)?,
                bias,
            }),
            StoredLinear::Trellis(packed) => Ok(LinearWeights::Trellis(Arc::new(packed))),
        }
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<DenseWeights, Error> {
        matrix(self.matrix(name, rows, cols)?, rows, cols)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        Ok(Checkpoint::vector(self, name, len)?)
    }

    fn has_linear(&self, prefix: &str) -> bool {
        Checkpoint::has_linear(self, prefix)
    }
}

/// The same values under the backend's type; both share one owner.
fn matrix(tensor: DenseTensor, rows: usize, cols: usize) -> Result<DenseWeights, Error> {
    let data = match tensor.data() {
        Stored::F32(values) => DenseData::F32(Arc::clone(values)),
        Stored::F16(values) => DenseData::F16(Arc::clone(values)),
        Stored::Bf16(values) => DenseData::Bf16(Arc::clone(values)),
    };
    DenseWeights::new(rows, cols, data).map_err(Error::weight(tensor.name()))
}

/// A linear of the right size, on the host.
pub(crate) fn checked_linear(
    weights: &dyn Weights,
    prefix: &str,
    shape: LinearShape,
) -> Result<LinearWeights, Error> {
    let linear = weights.linear(prefix, shape)?;
    linear.check(shape).map_err(Error::weight(prefix))?;
    Ok(linear)
}

/// A linear of the right size, on the backend.
pub(crate) fn load_linear<B: Inference>(
    backend: &B,
    weights: &dyn Weights,
    prefix: &str,
    shape: LinearShape,
) -> Result<B::Linear, Error> {
    let linear = checked_linear(weights, prefix, shape)?;
    backend
        .load_linear(linear, shape)
        .map_err(Error::weight(prefix))
}

/// An RMS norm over `len` values, on the backend.
pub(crate) fn load_norm<B: Inference>(
    backend: &B,
    weights: &dyn Weights,
    name: &str,
    len: usize,
    epsilon: f32,
) -> Result<B::Norm, Error> {
    let weight = weights.vector(name, len)?;
    BackendError::check_shape("values of a norm", len, weight.len())
        .map_err(Error::weight(name))?;
    backend
        .load_norm(weight, epsilon)
        .map_err(Error::weight(name))
}
