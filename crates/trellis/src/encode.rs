//! From a weight matrix to trellis codes.

use std::borrow::Cow;

use nalgebra::DMatrix;
use rayon::prelude::*;

use crate::viterbi::Encoder;
use crate::{EncodeConfig, Encoded, Error, Preparation, ldlq};

/// Encodes `weights`, of shape (in, out) with both a multiple of 128, for inputs whose mean second moment `E[x xᵀ]` is
/// `hessian`, of shape (in, in).
///
/// Weights are scaled and rotated ([`EncodeConfig::out_scales`]), laid over the codebook at the best size, encoded with
/// feedback in the metric of the Hessian ([`EncodeConfig::metric`]) and given the scales that fit best
/// ([`EncodeConfig::refit`]). Without a usable Hessian each tile is encoded by itself, and the report says so.
///
/// The result does not depend on the number of threads.
///
/// # Errors
/// [`Error::Shape`], [`Error::NotFinite`] naming the first weight that is none, and [`Error::ScaleRange`] for weights too
/// large for half-precision scales.
pub fn encode_linear(
    weights: &DMatrix<f32>,
    hessian: Option<&DMatrix<f32>>,
    config: &EncodeConfig,
) -> Result<Encoded, Error> {
    let hessian = hessian.map(Cow::Borrowed);
    let mut linear = Preparation::new(Cow::Borrowed(weights), hessian, config)?;
    let encoder = Encoder::new(config.bits, config.codebook).with_effort(config.effort);
    let samples = linear.samples();
    let tried: Vec<_> = samples
        .par_iter()
        .map(|tile| encoder.encode_tile(tile))
        .collect();
    linear.settle(&tried);
    let words = ldlq::encode(
        linear.targets(),
        linear.feedback(),
        config.bits,
        config.codebook,
        &encoder,
    );
    let fitted = linear.fit(&words)?;
    linear.finish(words, fitted)
}
