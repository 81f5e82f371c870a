//! Linears to codes with a scale per group (MR-GPTQ): the device factorizes, chooses scales, sweeps and measures.

mod factor;
mod moment;
mod scales;
mod sweep;

use std::collections::VecDeque;

use bytemuck::{Pod, Zeroable};
use nalgebra::DMatrix;
use treillage_backend::{EncodeJob, Error};
use treillage_gptq::{
    Config, Quantized, Report, Rotation, Solver, quantize_linear, relative_error,
};

pub use factor::Factor;
pub use moment::second_moment;
pub use sweep::{Arrived, Coded, Coming, Measured};

use crate::{Context, Tensor};

/// Rows and columns of a product's tile.
const TILE: usize = 64;
/// Linears under way: the host brings one while the device is at another.
const UNDER_WAY: usize = 2;

/// Quantizes linears, as `treillage_gptq::quantize_linear` does, in the order given. Neighbours that share an input are factorized for
/// once.
///
/// All formats, scales and rotations are the device's. It leaves to the CPU's solver: rounding to nearest, asked for or for want of a
/// Hessian; Hessians that are not finite, that have an input whose moment is not positive, or that f32 cannot factorize with the first
/// damping; weights that are not finite or too large for their scales' type; configurations that do not fit, for the error; and rotated
/// linears of more than 65,535 outputs. Reports are the same but for `attempts`, which is 1 for all that the device did.
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
    let few = job.shape.out_features <= 65_535 || job.config.rotation == Rotation::None;
    few && job.weights.iter().fold(true, |all, w| all & w.is_finite())
}

/// Records a copy of `values`, `rows` rows of them, to the device.
pub(super) fn brought(
    context: &Context,
    rows: usize,
    width: usize,
    values: &[f32],
) -> Result<Tensor, crate::Error> {
    let tensor = context.tensor(rows, width)?;
    context
        .recorder
        .write(&tensor.slice(), bytemuck::cast_slice(values));
    Ok(tensor)
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

/// Records the rotation of each run of a matrix's rows: `W R`.
pub(super) fn rotated(
    context: &Context,
    matrix: &Tensor,
    rotation: Rotation,
) -> Result<Tensor, crate::Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        width: u32,
        out_width: u32,
    }
    const LANES: u32 = 64;
    let Rotation::Block(block) = rotation else {
        return Ok(matrix.clone());
    };
    let (rows, width) = (matrix.rows(), matrix.width());
    let out = context.tensor(rows, width)?;
    let unused = context.tensor(1, 1)?;
    let params = Params {
        width: width as u32,
        out_width: width as u32,
    };
    let constants = [
        ("WG", LANES.into()),
        ("BLOCK", (block as u32).into()),
        ("SIDE", "none".into()),
    ];
    // What a lane holds: the kernel's B.
    let held = match block {
        16 => 4,
        32 | 64 => 8,
        _ => 16,
    };
    let slices = [&matrix.slice(), &unused.slice(), &out.slice()];
    let grid = [(width as u32).div_ceil(LANES * held), rows as u32, 1];
    context.run("hadamard", &constants, &slices, &params, grid)?;
    Ok(out)
}

/// Records a matrix turned over.
pub(super) fn transposed(context: &Context, matrix: &Tensor) -> Result<Tensor, crate::Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        rows: u32,
        columns: u32,
    }
    let out = context.tensor(matrix.width(), matrix.rows())?;
    let params = Params {
        rows: matrix.rows() as u32,
        columns: matrix.width() as u32,
    };
    let slices = [&matrix.slice(), &out.slice()];
    let grid = [params.columns.div_ceil(16), params.rows.div_ceil(16), 1];
    context.run("quantize/transpose", &[], &slices, &params, grid)?;
    Ok(out)
}
