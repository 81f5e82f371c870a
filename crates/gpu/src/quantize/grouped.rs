//! Linears to codes with a scale per group (MR-GPTQ): the device factorizes, chooses scales, sweeps and measures.

mod factor;
mod moment;
mod scales;
mod sweep;

use std::collections::VecDeque;

use nalgebra::DMatrix;
use treillage_backend::{EncodeJob, Error};
use treillage_gptq::{Config, Quantized, Report, Solver, quantize_linear, relative_error};

pub use factor::Factor;
pub use moment::second_moment;
pub use sweep::{Arrived, Coded, Coming, Measured};

use super::matrices::brought;
use crate::Context;

/// Rows and columns of a product's tile.
const TILE: usize = 64;
/// Linears under way: the host brings one while the device is at another.
const UNDER_WAY: usize = 2;

/// Quantizes linears, as `treillage_gptq::quantize_linear` does, in the order given. Neighbours that share an input are factorized for
/// once.
///
/// All formats, scales and rotations are the device's. It leaves to the CPU's solver: rounding to nearest, asked for or for want of a
/// Hessian; Hessians that are not finite, that have an input whose moment is not positive, or that f32 cannot factorize with the first
/// damping; weights that are not finite or too large for their scales' type; and configurations that do not fit, for the error. Reports
/// are the same but for `attempts`, which is 1 for all that the device did.
///
/// # Errors
/// What the device reports; [`Error::EncodeGrouped`] naming the linear that cannot be quantized; weights or Hessians that are not of the
/// size they are said to be.
pub fn encode_grouped(
    context: &Context,
    jobs: Vec<EncodeJob<Config>>,
) -> Result<Vec<Quantized>, Error> {
    jobs.iter().try_for_each(EncodeJob::check)?;
    let mut quantized = Vec::with_capacity(jobs.len());
    let mut under_way = VecDeque::new();
    for shared in jobs.chunk_by(EncodeJob::shares_input) {
        let hessian = shared[0].hessian.as_deref();
        let usable = hessian.filter(|hessian| suits(&shared[0], hessian));
        let factor = usable
            .map(|hessian| {
                let n = hessian.nrows();
                let hessian = brought(context, n, n, hessian.as_slice())?;
                Factor::new(context, &hessian, &shared[0].config)
            })
            .transpose()?;
        for job in shared {
            let factor = factor.as_ref().filter(|_| has_device_weights(job));
            let coded = factor.map(|factor| begin(context, factor, job));
            under_way.push_back((job, coded.transpose()?));
            if under_way.len() == UNDER_WAY {
                quantized.extend(under_way.pop_front().map(finish));
            }
        }
    }
    quantized.extend(under_way.into_iter().map(finish));
    quantized.into_iter().collect()
}

/// Whether `config` can be applied to linears of `inputs` inputs: group, rotation, factor of the matrix.
fn fits(config: &Config, inputs: usize) -> bool {
    let groups = config.group.is_multiple_of(2)
        && config.group > 0
        && inputs.is_multiple_of(config.group)
        && (config.format.has_free_group() || config.group == config.format.default_group());
    let global = config.global_scale.is_none_or(|g| g.is_finite() && g > 0.0);
    groups && config.rotation.divides(inputs) && global
}

/// Whether the device can make something of a Hessian.
fn suits(job: &EncodeJob<Config>, hessian: &DMatrix<f32>) -> bool {
    job.config.solver == Solver::Gptq
        && fits(&job.config, hessian.nrows())
        && hessian.iter().fold(true, |all, h| all & h.is_finite())
        && hessian.diagonal().iter().all(|&h| h > 0.0)
}

fn has_device_weights(job: &EncodeJob<Config>) -> bool {
    job.weights.iter().fold(true, |all, w| all & w.is_finite())
}

fn begin(
    context: &Context,
    factor: &Factor,
    job: &EncodeJob<Config>,
) -> Result<(Coming, Measured), crate::Error> {
    let (outputs, inputs) = (job.shape.out_features, job.shape.in_features);
    let weights = brought(context, outputs, inputs, &job.weights)?;
    let coded = factor.encode(context, &weights, &job.config)?;
    let measured = coded.measure(context)?;
    Ok((coded.download(context), measured))
}

fn finish(
    (job, coded): (&EncodeJob<Config>, Option<(Coming, Measured)>),
) -> Result<Quantized, Error> {
    let arrived = match coded {
        Some((coming, measured)) => {
            let error = measured.wait()?;
            coming.wait()?.map(|arrived| (arrived, error))
        }
        None => None,
    };
    let hessian = job.hessian.as_deref();
    let failed = |source| Error::EncodeGrouped {
        linear: job.name.clone(),
        source,
    };
    // Row-major `[out, in]` is column-major `(in, out)`.
    let weights = || {
        let (inputs, outputs) = (job.shape.in_features, job.shape.out_features);
        DMatrix::from_vec(inputs, outputs, job.weights.clone())
    };
    let Some((Arrived { linear, damping }, error)) = arrived else {
        return quantize_linear(&weights(), hessian, &job.config).map_err(failed);
    };
    let relative_error = match error {
        Some(error) => error,
        None => relative_error(&weights(), &linear, hessian).map_err(failed)?,
    };
    let report = Report {
        relative_error,
        damping,
        attempts: 1,
        dead_inputs: 0,
        fallback: None,
    };
    Ok(Quantized { linear, report })
}
