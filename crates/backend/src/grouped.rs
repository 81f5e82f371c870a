//! Codes with a scale per group, made on the host's threads: for backends whose device does not make them.

use nalgebra::DMatrix;
use rayon::prelude::*;
use treillage_gptq::{Calibration, Config, Quantized};

use crate::{EncodeJob, Error};

/// Encodes linears in the order given, as [`Quantization::encode_grouped`](crate::Quantization::encode_grouped) is to.
/// Neighbours that read one input share what is made of its Hessian.
///
/// # Errors
/// Weights or Hessians that are not of the size they are said to be; [`Error::EncodeGrouped`] naming the linear that cannot be
/// quantized.
pub fn encode_grouped_on_host(jobs: Vec<EncodeJob<Config>>) -> Result<Vec<Quantized>, Error> {
    jobs.iter().try_for_each(EncodeJob::check)?;
    let mut groups: Vec<Vec<EncodeJob<Config>>> = Vec::new();
    for job in jobs {
        match groups.last_mut() {
            Some(group) if group[0].shares_input(&job) => group.push(job),
            _ => groups.push(vec![job]),
        }
    }
    let quantized = groups.into_par_iter().with_max_len(1).map(quantize_group);
    Ok(quantized.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Quantizes linears that share an input.
fn quantize_group(jobs: Vec<EncodeJob<Config>>) -> Result<Vec<Quantized>, Error> {
    let Some(first) = jobs.first() else {
        return Ok(Vec::new());
    };
    let failed = |linear| move |source| Error::EncodeGrouped { linear, source };
    let (hessian, inputs) = (first.hessian.clone(), first.shape.in_features);
    let calibration = Calibration::new(hessian.as_deref(), inputs, &first.config)
        .map_err(failed(first.name.clone()))?;
    let jobs = jobs.into_par_iter().with_max_len(1);
    jobs.map(|job| {
        // Row-major `[out, in]` is column-major `(in, out)`.
        let weights = DMatrix::from_vec(inputs, job.shape.out_features, job.weights);
        calibration.quantize(&weights).map_err(failed(job.name))
    })
    .collect()
}
