use serde::{Deserialize, Serialize};
use treillage_gptq::Rotation;

use crate::{
    Options,
    coder::{Job, Outcome},
};

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What was asked for.
    pub options: Options,
    /// Average bits per weight over the linears of all blocks, at most what was asked for; scales of groups count too.
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
    /// Bits per weight, scales apart.
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
    /// MR-GPTQ: inputs that are rotated together, by itself or by the model around it; `None` if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<usize>,
    /// MR-GPTQ: factorizations of its Hessian that it took, each but the last with too little damping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// MR-GPTQ: inputs that were never active, whose weights became zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_inputs: Option<usize>,
}

impl LinearSummary {
    pub(crate) fn new(job: &Job<'_>, outcome: Outcome, rotation: Rotation) -> Self {
        let (plan, calibration) = (job.plan, &job.calibration);
        Self {
            prefix: plan.prefix.clone(),
            in_features: plan.shape.in_features,
            out_features: plan.shape.out_features,
            bits: outcome.bits,
            relative_error: outcome.relative_error,
            tokens: calibration.tokens,
            shrinkage: calibration.shrinkage,
            damping: outcome.damping,
            fallback: outcome.fallback.map(str::to_owned),
            rotation: match rotation {
                Rotation::None => None,
                Rotation::Block(block) => Some(block),
            },
            attempts: outcome.attempts,
            dead_inputs: outcome.dead_inputs,
        }
    }

    fn is_starved(&self) -> bool {
        self.shrinkage.is_some() && self.tokens < self.in_features as u64
    }
}
