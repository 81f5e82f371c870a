//! Calibration and encoding.

use std::borrow::Cow;

use nalgebra::DMatrix;
use rayon::prelude::*;
use treillage_backend::{EncodeJob, Error, Quantization, RouteWeighting};
use treillage_gptq::{Config, Quantized, quantize_linear};
use treillage_linalg::Hessian;
use treillage_trellis::{EncodeConfig, Encoded, encode_linear};

use crate::backend::CpuBackend;
use crate::linear::Linear;
use crate::moe::Experts;
use crate::moments::Moments;

/// Both axes of an encoded linear are padded to a multiple of this.
const PAD: usize = 128;

impl Quantization for CpuBackend {
    type Moments = Moments;

    fn new_moments(&self, width: usize) -> Result<Moments, Error> {
        Ok(Moments::new(width))
    }

    fn watch(&self, linear: &mut Linear, moments: &Moments) -> Result<(), Error> {
        linear.watch(moments)
    }

    fn watch_experts(
        &self,
        experts: &mut Experts,
        inputs: &[Moments],
        downs: &[Moments],
        weighting: RouteWeighting,
    ) -> Result<(), Error> {
        experts.watch(inputs, downs, weighting)
    }

    fn take_moments(&self, moments: &Moments) -> Result<Hessian, Error> {
        Ok(moments.take())
    }

    fn encode_trellis(&self, jobs: Vec<EncodeJob<EncodeConfig>>) -> Result<Vec<Encoded>, Error> {
        // Each job is parallel over its tiles as well, so that one alone keeps all threads busy.
        let jobs = jobs.into_par_iter().with_max_len(1);
        jobs.map(|job| {
            check(&job)?;
            // Row-major `[out, in]` is column-major `(in, out)`.
            let (rows, columns) = (job.shape.in_features, job.shape.out_features);
            let weights = padded(Cow::Owned(DMatrix::from_vec(rows, columns, job.weights)));
            let hessian = job.hessian.as_deref().map(|h| padded(Cow::Borrowed(h)));
            let linear = job.name;
            encode_linear(&weights, hessian.as_deref(), &job.config)
                .map_err(|source| Error::Encode { linear, source })
        })
        .collect()
    }

    fn encode_grouped(&self, jobs: Vec<EncodeJob<Config>>) -> Result<Vec<Quantized>, Error> {
        let jobs = jobs.into_par_iter().with_max_len(1);
        jobs.map(|job| {
            check(&job)?;
            let (rows, columns) = (job.shape.in_features, job.shape.out_features);
            let weights = DMatrix::from_vec(rows, columns, job.weights);
            let linear = job.name;
            quantize_linear(&weights, job.hessian.as_deref(), &job.config)
                .map_err(|source| Error::EncodeGrouped { linear, source })
        })
        .collect()
    }
}

fn check<C>(job: &EncodeJob<C>) -> Result<(), Error> {
    let in_features = job.shape.in_features;
    Error::check_shape(
        format!("weights of {}", job.name),
        job.shape.weights(),
        job.weights.len(),
    )?;
    if let Some(hessian) = &job.hessian {
        for side in [hessian.nrows(), hessian.ncols()] {
            Error::check_shape(format!("Hessian of {}", job.name), in_features, side)?;
        }
    }
    Ok(())
}

/// `matrix` with zero rows and columns up to whole blocks.
fn padded(matrix: Cow<'_, DMatrix<f32>>) -> Cow<'_, DMatrix<f32>> {
    let (rows, cols) = matrix.shape();
    let (tall, wide) = (rows.next_multiple_of(PAD), cols.next_multiple_of(PAD));
    if (tall, wide) == (rows, cols) {
        matrix
    } else {
        Cow::Owned(matrix.into_owned().resize(tall, wide, 0.0))
    }
}
