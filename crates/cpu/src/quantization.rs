//! Calibration and encoding.

use std::borrow::Cow;

use nalgebra::DMatrix;
use rayon::prelude::*;
use treillage_backend::{EncodeJob, Error, LinearShape, Quantization, RouteWeighting};
use treillage_linalg::Hessian;
use treillage_trellis::{Encoded, encode_linear};

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

    fn encode(&self, jobs: Vec<EncodeJob>) -> Result<Vec<Encoded>, Error> {
        // Each job is parallel over its tiles as well, so that one alone keeps all threads busy.
        jobs.into_par_iter().with_max_len(1).map(encode).collect()
    }
}

fn encode(job: EncodeJob) -> Result<Encoded, Error> {
    let LinearShape {
        in_features,
        out_features,
    } = job.shape;
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
    // Row-major `[out, in]` is column-major `(in, out)`.
    let weights = DMatrix::from_vec(in_features, out_features, job.weights);
    let weights = padded(Cow::Owned(weights));
    let hessian = job.hessian.as_deref().map(|h| padded(Cow::Borrowed(h)));
    let linear = job.name;
    encode_linear(&weights, hessian.as_deref(), &job.config)
        .map_err(|source| Error::Encode { linear, source })
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
