//! The one thing that methods differ in: what becomes of a linear.

use std::sync::Arc;

use half::f16;
use nalgebra::DMatrix;
use treillage_backend::{EncodeJob, LinearWeights, Quantization};
use treillage_checkpoint::{ModelConfig, Module};
use treillage_gptq::{self as gptq, Config, Format, GroupedLinear, Parts, Rotation};
use treillage_linalg::hadamard::{fwht, rotate_both};
use treillage_model::plan::LinearPlan;
use treillage_trellis::{self as trellis, Bits, PackedLinear, PackedParts};

use crate::{
    Error, GptqOptions, Method, Options, TrellisOptions, rates::Rates, statistics::Calibration,
};

/// Encodes linears by one method.
pub(crate) enum Coder<'a> {
    Trellis {
        options: &'a TrellisOptions,
        rates: Rates,
    },
    Grouped {
        options: &'a GptqOptions,
        config: Config,
    },
}

/// A linear about to be encoded.
pub(crate) struct Job<'p> {
    pub(crate) plan: &'p LinearPlan,
    /// `[out_features, in_features]`, row-major.
    pub(crate) weights: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) calibration: Calibration,
    /// What its inputs are rotated with when it runs.
    pub(crate) rotation: Rotation,
    /// The factor of all its scales, if it shares one.
    pub(crate) global_scale: Option<f32>,
}

/// What a linear became.
#[derive(Clone)]
pub(crate) enum Codes {
    Trellis(Arc<PackedLinear>),
    Grouped {
        linear: Arc<GroupedLinear>,
        activation_scale: Option<f32>,
    },
}

/// How that went.
pub(crate) struct Outcome {
    pub(crate) bits: usize,
    pub(crate) relative_error: f64,
    pub(crate) damping: f32,
    pub(crate) attempts: Option<u32>,
    pub(crate) dead_inputs: Option<usize>,
    pub(crate) fallback: Option<&'static str>,
}

impl<'a> Coder<'a> {
    /// The coder that `options` ask for, for the model that `model` describes, with `rates` for trellis codes.
    pub(crate) fn new(options: &'a Options, model: &ModelConfig, rates: Rates) -> Self {
        match &options.method {
            Method::Trellis(trellis) => Self::Trellis {
                options: trellis,
                rates,
            },
            Method::MrGptq(gptq) => Self::Grouped {
                options: gptq,
                config: gptq.config(options.recipe.damping, model),
            },
        }
    }

    /// Average bits per weight over the linears of all blocks.
    pub(crate) fn bits_per_weight(&self) -> f64 {
        match self {
            Coder::Trellis { rates, .. } => rates.average(),
            Coder::Grouped { options, .. } => options.bits_per_weight(),
        }
    }

    /// The factor that `jobs`, which read one input, have to share: engines run them as one matrix, which has one.
    pub(crate) fn global_scale(&self, jobs: &[Job<'_>]) -> Option<f32> {
        match self {
            Coder::Grouped { config, .. } if config.format == Format::NvFp4 => {
                let scales = jobs
                    .iter()
                    .map(|job| global_scale(&job.weights, job.rotation));
                scales.reduce(f32::min)
            }
            _ => None,
        }
    }

    /// Encodes `jobs`, in their order.
    pub(crate) fn encode<B: Quantization>(
        &self,
        backend: &B,
        options: &Options,
        jobs: &mut [Job<'_>],
    ) -> Result<Vec<(Codes, Outcome)>, Error> {
        match self {
            Coder::Trellis {
                options: trellis,
                rates,
            } => {
                let encode = encode_jobs(jobs, |job| {
                    let prefix = &job.plan.prefix;
                    let bits = rates.of(prefix)?;
                    Ok(trellis.config(prefix, bits, &options.recipe, options.seed))
                })?;
                let encoded = backend.encode_trellis(encode)?.into_iter();
                encoded.zip(jobs).map(trellis_codes).collect()
            }
            Coder::Grouped {
                options: gptq,
                config,
            } => {
                let encode = encode_jobs(jobs, |job| {
                    Ok(Config {
                        rotation: job.rotation,
                        global_scale: job.global_scale,
                        ..config.clone()
                    })
                })?;
                let needs_activations = gptq.rotates_online() && gptq.format == Format::NvFp4;
                let quantized = backend.encode_grouped(encode)?.into_iter();
                quantized
                    .zip(jobs)
                    .map(|(quantized, job)| {
                        let scale = needs_activations.then(|| activation_scale(job));
                        grouped_codes(quantized, job, scale)
                    })
                    .collect()
            }
        }
    }
}

/// Takes the weights out of `jobs`.
fn encode_jobs<C>(
    jobs: &mut [Job<'_>],
    config: impl Fn(&Job<'_>) -> Result<C, Error>,
) -> Result<Vec<EncodeJob<C>>, Error> {
    let encode = jobs.iter_mut().map(|job| {
        Ok(EncodeJob {
            name: job.plan.prefix.clone(),
            config: config(job)?,
            weights: std::mem::take(&mut job.weights),
            shape: job.plan.shape,
            hessian: job.calibration.hessian.clone(),
        })
    });
    encode.collect()
}

fn trellis_codes(
    (encoded, job): (trellis::Encoded, &mut Job<'_>),
) -> Result<(Codes, Outcome), Error> {
    let trellis::Encoded { linear, report } = encoded;
    let bits: Bits = linear.bits();
    let outcome = Outcome {
        bits: bits.get(),
        relative_error: report.relative_error,
        damping: report.damping,
        attempts: None,
        dead_inputs: None,
        fallback: report.fallback.map(|fallback| match fallback {
            trellis::Fallback::Uncalibrated => UNCALIBRATED,
            trellis::Fallback::DegenerateHessian => DEGENERATE,
        }),
    };
    let linear = match job.bias.take() {
        Some(bias) => with_bias(linear, &bias)?,
        None => linear,
    };
    Ok((Codes::Trellis(Arc::new(linear)), outcome))
}

fn grouped_codes(
    quantized: gptq::Quantized,
    job: &mut Job<'_>,
    activation_scale: Option<f32>,
) -> Result<(Codes, Outcome), Error> {
    let gptq::Quantized { linear, report } = quantized;
    let outcome = Outcome {
        bits: linear.parts().element.bits(),
        relative_error: report.relative_error,
        damping: report.damping,
        attempts: Some(report.attempts),
        dead_inputs: Some(report.dead_inputs),
        fallback: report.fallback.map(|fallback| match fallback {
            gptq::Fallback::Uncalibrated => UNCALIBRATED,
            gptq::Fallback::DegenerateHessian => DEGENERATE,
            gptq::Fallback::Indefinite => "its Hessian could not be factorized",
        }),
    };
    let linear = GroupedLinear::new(Parts {
        bias: job.bias.take(),
        ..linear.into_parts()
    })?;
    let linear = Arc::new(linear);
    let codes = Codes::Grouped {
        linear,
        activation_scale,
    };
    Ok((codes, outcome))
}

const UNCALIBRATED: &str = "no token reached it";
const DEGENERATE: &str = "its Hessian is degenerate";

impl Codes {
    /// As a model loads them.
    pub(crate) fn weights(&self) -> LinearWeights {
        match self {
            Codes::Trellis(linear) => LinearWeights::Trellis(Arc::clone(linear)),
            Codes::Grouped { linear, .. } => LinearWeights::Grouped(Arc::clone(linear)),
        }
    }

    /// As they are written under `name`.
    pub(crate) fn module<'a>(&'a self, name: &'a str) -> Module<'a> {
        match self {
            Codes::Trellis(linear) => Module::Trellis { name, linear },
            Codes::Grouped {
                linear,
                activation_scale,
            } => Module::Grouped {
                name,
                linear,
                activation_scale: *activation_scale,
            },
        }
    }
}

/// `linear` with the original's bias, padded as its outputs are.
fn with_bias(linear: PackedLinear, bias: &[f32]) -> Result<PackedLinear, Error> {
    let mut halves: Vec<f16> = bias.iter().copied().map(f16::from_f32).collect();
    halves.resize(linear.out_features(), f16::ZERO);
    Ok(PackedLinear::new(PackedParts {
        words: linear.shared_words(),
        shape: linear.shape(),
        codebook: linear.codebook(),
        suh: linear.suh().to_vec(),
        svh: linear.svh().to_vec(),
        bias: Some(halves),
    })?)
}

/// The factor of the matrix that `weights` become when their inputs are rotated.
fn global_scale(weights: &[f32], rotation: Rotation) -> f32 {
    match rotation {
        Rotation::None => gptq::global_scale(weights),
        Rotation::Block(block) => {
            let mut rotated = weights.to_vec();
            fwht(&mut rotated, block);
            gptq::global_scale(&rotated)
        }
    }
}

/// The factor that NVFP4 activations are scaled by before they are rounded: `448 · 6 / max |x|` of the rotated inputs.
///
/// The maximum is not known, but a bound on it is: no `x_i²` of `T` tokens is larger than their sum `T · H_ii`. The
/// bound is some tens of times too large, which leaves scales of groups well inside E4M3's range all the same. Without
/// calibration the factor is 1, good for inputs between a hundredth and some thousands.
fn activation_scale(job: &Job<'_>) -> f32 {
    let Some(hessian) = &job.calibration.hessian else {
        return 1.0;
    };
    let square = (job.calibration.tokens.max(1) as f32) * largest_moment(hessian, job.rotation);
    match 448.0 * 6.0 / square.sqrt() {
        scale if scale.is_finite() && scale > 0.0 => scale,
        _ => 1.0,
    }
}

/// The largest `E[x_i²]` of rotated inputs.
fn largest_moment(hessian: &DMatrix<f32>, rotation: Rotation) -> f32 {
    match rotation {
        Rotation::None => hessian.diagonal().max(),
        Rotation::Block(block) => {
            let moments = (0..hessian.nrows()).step_by(block).map(|first| {
                let square = hessian.view((first, first), (block, block));
                let mut square = square.into_owned();
                rotate_both(&mut square, block);
                square.diagonal().max()
            });
            moments.fold(0.0, f32::max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_that_of_the_rotated_matrix() {
        // One outlier is spread over its block.
        let mut weights = vec![0.0; 64];
        weights[3] = 8.0;
        assert_eq!(global_scale(&weights, Rotation::None), 448.0 * 6.0 / 8.0);
        assert_eq!(
            global_scale(&weights, Rotation::Block(16)),
            448.0 * 6.0 / 2.0
        );
        assert_eq!(global_scale(&weights, Rotation::Block(64)), 448.0 * 6.0);
    }

    #[test]
    fn moments_follow_the_rotation() {
        // Inputs that are all alike add up in the first channel of a block.
        let ones = DMatrix::from_element(32, 32, 1.0);
        assert_eq!(largest_moment(&ones, Rotation::None), 1.0);
        assert!((largest_moment(&ones, Rotation::Block(16)) - 16.0).abs() < 1e-4);
    }
}
