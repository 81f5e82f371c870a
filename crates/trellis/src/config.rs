use crate::viterbi::Effort;
use crate::{Bits, Codebook, PackedLinear};

/// How to encode one linear.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeConfig {
    /// Bits per weight.
    pub bits: Bits,
    /// The function from states to weights.
    pub codebook: Codebook,
    /// Seed of the random signs.
    pub seed: u64,
    /// Whether each output channel gets a scale of its own.
    pub out_scales: OutScales,
    /// The error metric that feedback minimises.
    pub metric: HessianMetric,
    /// Whether input and output scales are refitted by least squares after encoding.
    pub refit: bool,
    /// Added to the Hessian's diagonal, as a fraction of its mean.
    pub damping: f32,
    /// How thoroughly codes are searched for.
    pub effort: Effort,
}

impl EncodeConfig {
    /// The defaults: full-scale metric, refit, and the best effort.
    pub fn new(bits: Bits, codebook: Codebook, seed: u64) -> Self {
        Self {
            bits,
            codebook,
            seed,
            out_scales: OutScales::Always,
            metric: HessianMetric::FullScale,
            refit: true,
            damping: 0.025,
            effort: Effort::Best,
        }
    }

    /// What ExLlamaV3 does: the Hessian rotated by the signs of the input scale alone, no refit.
    pub fn original_recipe(bits: Bits, codebook: Codebook, seed: u64) -> Self {
        Self {
            metric: HessianMetric::SignsOnly,
            refit: false,
            ..Self::new(bits, codebook, seed)
        }
    }
}

/// Whether each output channel is divided by its RMS before encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OutScales {
    /// Always.
    #[default]
    Always,
    /// Never: signs only.
    Never,
    /// Unless a few input channels dominate the Hessian's diagonal.
    Auto,
}

/// Which part of the input scale `suh` the Hessian is rotated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HessianMetric {
    /// All of it, so that feedback minimises the error of the layer's output; weights are laid over the codebook so small
    /// that there is room for the feedback.
    #[default]
    FullScale,
    /// Its signs: what ExLlamaV3 does, so that linears with one input share a factorization.
    SignsOnly,
}

/// A linear, encoded.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The result.
    pub linear: PackedLinear,
    /// How it went.
    pub report: EncodeReport,
}

/// How encoding one linear went.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeReport {
    /// `tr(Eᵀ H E) / tr(Wᵀ H W)` of the stored weights with the undamped Hessian; without one, `‖E‖² / ‖W‖²`.
    pub relative_error: f64,
    /// The absolute damping that the factorization needed; 0 without a Hessian.
    pub damping: f32,
    /// Factor of the regularised weights before encoding.
    pub scale: f32,
    /// Why the linear was encoded without feedback, if it was.
    pub fallback: Option<Fallback>,
}

/// Why a linear was encoded without the Hessian's feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// No Hessian was given.
    Uncalibrated,
    /// The Hessian is zero, not finite, or not positive definite whatever the damping.
    DegenerateHessian,
}
