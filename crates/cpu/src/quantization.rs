//! Calibration and encoding.

use std::borrow::Cow;

use nalgebra::DMatrix;
use rayon::prelude::*;
use treillage_backend::{EncodeJob, Error, Quantization, RouteWeighting, encode_grouped_on_host};
use treillage_gptq::{Config, Quantized};
use treillage_linalg::Hessian;
use treillage_trellis::{EncodeConfig, Encoded, encode_linear, padded};

use crate::attention::Expansion;
use crate::backend::CpuBackend;
use crate::linear::Linear;
use crate::moe::Experts;
use crate::moments::Moments;

impl Quantization for CpuBackend {
    type Moments = Moments;

    fn encodes_as(&self) -> String {
        "cpu".to_owned()
    }

    fn new_moments(&self, width: usize) -> Result<Moments, Error> {
        Ok(Moments::new(width))
    }

    fn watch(&self, linear: &mut Linear, moments: &Moments) -> Result<(), Error> {
        linear.watch(moments)
    }

    fn watch_expansion(&self, expansion: &mut Expansion, moments: &Moments) -> Result<(), Error> {
        expansion.watch(moments)
    }

    fn watch_experts(
        &self,
        experts: &mut Experts,
        inputs: &[Option<Moments>],
        downs: &[Option<Moments>],
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
            job.check()?;
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
        encode_grouped_on_host(jobs)
    }
}
