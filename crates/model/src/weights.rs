use std::sync::Arc;

use treillage_backend::{
    DenseData, DenseWeights, Error as BackendError, Inference, LinearShape, LinearWeights,
};
use treillage_checkpoint::{Checkpoint, DenseData as Stored, DenseTensor, StoredLinear};

use crate::{Error, plan::NormPlan};

/// Where a model's weights come from, by their names in a Hugging Face checkpoint.
///
/// A [`Checkpoint`] is the usual source. Others overlay one, as quantization does with freshly encoded linears, or make
/// weights up, as benchmarks do. What they return is checked against the model's sizes when it is loaded.
///
/// ```
/// use std::sync::Arc;
///
/// use treillage_backend::{DenseData, DenseWeights, LinearShape, LinearWeights};
/// use treillage_checkpoint::ModelConfig;
/// use treillage_cpu::CpuBackend;
/// use treillage_model::{Error, Model, Weights};
///
/// struct Constant(f32);
///
/// impl Weights for Constant {
///     fn linear(&self, prefix: &str, shape: LinearShape) -> Result<LinearWeights, Error> {
///         let weight = self.dense(prefix, shape.out_features, shape.in_features)?;
///         Ok(LinearWeights::Dense { weight, bias: None })
///     }
///
///     fn dense(&self, _: &str, rows: usize, cols: usize) -> Result<DenseWeights, Error> {
///         let values = DenseData::F32(Arc::new(vec![self.0; rows * cols]));
///         Ok(DenseWeights::new(rows, cols, values)?)
///     }
///
///     fn vector(&self, _: &str, len: usize) -> Result<Vec<f32>, Error> {
///         Ok(vec![1.0; len])
///     }
///
///     fn has_linear(&self, _: &str) -> bool {
///         true
///     }
/// }
///
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/micro-qwen3_moe/config.json");
/// # let json = std::fs::read_to_string(path).unwrap();
/// # let json = serde_json::from_str(&json).unwrap();
/// let config = ModelConfig::from_json(&json).unwrap();
/// let backend = CpuBackend::default();
/// let model = Model::load(&backend, &Constant(0.01), &config)?;
/// let logits = model.session(&backend, 8)?.extend(&[1, 2, 3])?;
/// assert!(logits.iter().all(|logit| *logit == logits[0]));
/// # Ok::<(), Error>(())
/// ```
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

    /// The values of the tensor `name` of `shape`, row-major, such as a convolution's. Where tensors have no shapes of
    /// their own, those of a [`vector`](Self::vector) of as many.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.vector(name, shape.iter().product())
    }

    /// Whether there is a linear under `prefix`, dense or packed.
    fn has_linear(&self, prefix: &str) -> bool;
}

impl Weights for Checkpoint {
    fn linear(&self, prefix: &str, shape: LinearShape) -> Result<LinearWeights, Error> {
        match Checkpoint::linear(self, prefix, shape.in_features, shape.out_features)? {
            StoredLinear::Dense { weight, bias } => Ok(LinearWeights::Dense {
                weight: dense_weights(&weight, shape.out_features, shape.in_features)?,
                bias,
            }),
            StoredLinear::Trellis(packed) => Ok(LinearWeights::Trellis(Arc::new(packed))),
            StoredLinear::Grouped(grouped) => Ok(LinearWeights::Grouped(Arc::new(grouped))),
        }
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<DenseWeights, Error> {
        dense_weights(&self.matrix(name, rows, cols)?, rows, cols)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        Ok(Checkpoint::vector(self, name, len)?)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        Ok(Checkpoint::values(self, name, shape)?)
    }

    fn has_linear(&self, prefix: &str) -> bool {
        Checkpoint::has_linear(self, prefix)
    }
}

/// The values of `tensor` under the backend's type, as a matrix; both share one owner.
///
/// # Errors
/// If there are not `rows × cols` of them.
pub fn dense_weights(
    tensor: &DenseTensor,
    rows: usize,
    cols: usize,
) -> Result<DenseWeights, Error> {
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

/// The values of a tensor of `shape`.
pub(crate) fn checked_values(
    weights: &dyn Weights,
    name: &str,
    shape: &[usize],
) -> Result<Vec<f32>, Error> {
    let values = weights.values(name, shape)?;
    let len = shape.iter().product();
    BackendError::check_shape("values of a tensor", len, values.len())
        .map_err(Error::weight(name))?;
    Ok(values)
}

/// An RMS norm over `len` values, on the backend.
pub(crate) fn load_norm<B: Inference>(
    backend: &B,
    weights: &dyn Weights,
    norm: &NormPlan,
    len: usize,
    epsilon: f32,
) -> Result<B::Norm, Error> {
    let gains = norm.gains(checked_values(weights, &norm.name, &[len])?);
    backend
        .load_norm(gains, epsilon)
        .map_err(Error::weight(&norm.name))
}
