use nalgebra::DMatrix;

use crate::{Calibration, Config, Error, GroupedLinear};

/// A linear, quantized, and how it went.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// The codes.
    pub linear: GroupedLinear,
    /// How it went.
    pub report: Report,
}

/// How the quantization of a linear went.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// `tr(D H Dᵀ) / tr(W H Wᵀ)` with `D = W − Q` and the undamped Hessian; relative squared weight error without one.
    pub relative_error: f64,
    /// What was added to the Hessian's diagonal.
    pub damping: f32,
    /// Factorizations it took.
    pub attempts: u32,
    /// Inputs that were never active: their weights became zero.
    pub dead_inputs: usize,
    /// Why it was rounded to nearest although GPTQ was asked for, if it was.
    pub fallback: Option<Fallback>,
}

/// Why a linear was rounded to nearest although GPTQ was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// There is no Hessian: no token reached the linear.
    Uncalibrated,
    /// The Hessian holds a NaN or an infinity, or is zero.
    DegenerateHessian,
    /// The Hessian could not be factorized, whatever the damping.
    Indefinite,
}

/// Quantizes `weights`, of shape (in, out), for inputs whose mean second moment `E[x xᵀ]` is `hessian`, symmetric and of shape
/// (in, in). Both are in the layer's own basis; [`Config::rotation`] is applied to both. Linears that share an input are done
/// faster through one [`Calibration`].
///
/// # Errors
/// [`Error::Group`], [`Error::Rotation`], [`Error::Shape`], [`Error::NotFinite`], [`Error::GlobalScale`], [`Error::ScaleRange`].
pub fn quantize_linear(
    weights: &DMatrix<f32>,
    hessian: Option<&DMatrix<f32>>,
    config: &Config,
) -> Result<Quantized, Error> {
    Calibration::new(hessian, weights.nrows(), config)?.quantize(weights)
}
