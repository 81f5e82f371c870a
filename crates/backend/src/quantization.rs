use std::sync::Arc;

use nalgebra::DMatrix;
use treillage_linalg::Hessian;

use crate::{Error, Inference, LinearShape};

/// Calibrates and encodes: the work of quantization that is worth a device.
///
/// A linear that is *watched* adds the second moment of every input it sees to a [`Quantization::Moments`], so that
/// the same forward pass that serves inference also calibrates.
pub trait Quantization: Inference {
    /// The running second moment of one linear's input.
    type Moments: Clone + Send + Sync;

    /// Names all that codes depend on beside what they are made of: what two backends of one name make is the same to the last
    /// byte.
    fn encodes_as(&self) -> String;

    /// Weights that are best encoded at once, in jobs of any size: enough to keep the device busy, little memory beside that of a
    /// block.
    fn weights_at_once(&self) -> usize {
        1 << 23
    }

    /// No tokens yet, inputs of `width` values.
    fn new_moments(&self, width: usize) -> Result<Self::Moments, Error>;

    /// From now on `linear` adds what it reads to `moments`. Linears that read one input in one op and share moments
    /// add it once.
    fn watch(&self, linear: &mut Self::Linear, moments: &Self::Moments) -> Result<(), Error>;

    /// From now on `expansion` adds the normed latents of new tokens to `moments`.
    fn watch_expansion(
        &self,
        expansion: &mut Self::Expansion,
        moments: &Self::Moments,
    ) -> Result<(), Error>;

    /// From now on each expert adds what it reads from the tokens routed to it: `inputs[e]` for gate and up,
    /// `downs[e]` for down; `None` is not gathered. Each token counts with the square of its routing weight if `weighting` says so.
    fn watch_experts(
        &self,
        experts: &mut Self::Experts,
        inputs: &[Option<Self::Moments>],
        downs: &[Option<Self::Moments>],
        weighting: RouteWeighting,
    ) -> Result<(), Error>;

    /// Takes what `moments` has gathered to the host and leaves it empty.
    fn take_moments(&self, moments: &Self::Moments) -> Result<Hessian, Error>;

    /// Encodes linears to trellis codes, in parallel as far as the device allows, in the order given, independent of it.
    fn encode_trellis(
        &self,
        jobs: Vec<EncodeJob<treillage_trellis::EncodeConfig>>,
    ) -> Result<Vec<treillage_trellis::Encoded>, Error>;

    /// Encodes linears to codes with a scale per group, as [`Quantization::encode_trellis`] does.
    fn encode_grouped(
        &self,
        jobs: Vec<EncodeJob<treillage_gptq::Config>>,
    ) -> Result<Vec<treillage_gptq::Quantized>, Error>;
}

/// How much a routed token counts in its expert's Hessian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RouteWeighting {
    /// Every token counts once.
    Uniform,
    /// A token counts with the square of its routing weight: the weight scales the expert's output and with it
    /// the error.
    #[default]
    Squared,
}

/// One linear to encode, as `C` says.
pub struct EncodeJob<C> {
    /// For messages.
    pub name: String,
    /// Weights in f32, `[out_features, in_features]` row-major, unpadded.
    pub weights: Vec<f32>,
    /// Their size.
    pub shape: LinearShape,
    /// Mean second moment `E[x xᵀ]` of the input, `[in_features, in_features]`; `None` encodes without calibration.
    /// Jobs with one input share it.
    pub hessian: Option<Arc<DMatrix<f32>>>,
    /// What to make of it.
    pub config: C,
}

impl<C: PartialEq> EncodeJob<C> {
    /// Whether both are quantized in the same way on the same Hessian, so that what is made of it can be shared.
    pub fn shares_input(&self, other: &Self) -> bool {
        let hessian = match (&self.hessian, &other.hessian) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        hessian && self.shape.in_features == other.shape.in_features && self.config == other.config
    }
}

impl<C> EncodeJob<C> {
    /// Checks weights and Hessian against the shape.
    ///
    /// # Errors
    /// Naming what does not fit.
    pub fn check(&self) -> Result<(), Error> {
        let weights = self.shape.weights();
        Error::check_shape(
            format!("weights of {}", self.name),
            weights,
            self.weights.len(),
        )?;
        for side in self.hessian.iter().flat_map(|h| [h.nrows(), h.ncols()]) {
            let inputs = self.shape.in_features;
            Error::check_shape(format!("Hessian of {}", self.name), inputs, side)?;
        }
        Ok(())
    }
}
