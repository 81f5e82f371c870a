use serde::{Deserialize, Serialize};
use treillage_model::plan::LinearPlan;
use treillage_trellis::{Bits, EncodeReport, Fallback};

use crate::{Options, statistics::Calibration};

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What was asked for.
    pub options: Options,
    /// Average bits per weight over the linears of all blocks, at most what was asked for.
    pub bits_per_weight: f64,
    /// Calibration rows used.
    pub rows: usize,
    /// Calibration rows asked for; the text may have had fewer.
    pub requested_rows: usize,
    /// Tokens of a row.
    pub cols: usize,
    /// Every linear encoded, in the model's order, the head last.
    pub linears: Vec<LinearSummary>,
}

impl Summary {
    /// Experts whose own tokens say little about them: those that saw fewer than their input is wide, so that most of
    /// their Hessian is the layer's.
    pub fn starved_experts(&self) -> impl Iterator<Item = &LinearSummary> {
        self.linears.iter().filter(|l| l.is_starved())
    }
}

/// How one linear was encoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearSummary {
    /// Its name in the checkpoint.
    pub prefix: String,
    /// Width of its input.
    pub in_features: usize,
    /// Width of its output.
    pub out_features: usize,
    /// Bits per weight.
    pub bits: usize,
    /// Error of its output relative to the output, `tr(Eᵀ H E) / tr(Wᵀ H W)`.
    pub relative_error: f64,
    /// Calibration tokens that it read.
    pub tokens: u64,
    /// Share of its Hessian that is the layer's, 0 to 1; `None` if it is all its own.
    pub shrinkage: Option<f64>,
    /// Added to its Hessian's diagonal.
    pub damping: f32,
    /// Why it was encoded without feedback, if it was.
    pub fallback: Option<String>,
}

impl LinearSummary {
    pub(crate) fn new(
        plan: &LinearPlan,
        bits: Bits,
        report: &EncodeReport,
        calibration: &Calibration,
    ) -> Self {
        Self {
            prefix: plan.prefix.clone(),
            in_features: plan.shape.in_features,
            out_features: plan.shape.out_features,
            bits: bits.get(),
            relative_error: report.relative_error,
            tokens: calibration.tokens,
            shrinkage: calibration.shrinkage,
            damping: report.damping,
            fallback: report.fallback.map(|fallback| {
                match fallback {
                    Fallback::Uncalibrated => "no token reached it",
                    Fallback::DegenerateHessian => "its Hessian is degenerate",
                }
                .to_owned()
            }),
        }
    }

    fn is_starved(&self) -> bool {
        self.shrinkage.is_some() && self.tokens < self.in_features as u64
    }
}
