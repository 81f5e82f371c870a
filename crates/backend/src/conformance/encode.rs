//! Encoding linears.

use std::sync::Arc;

use nalgebra::DMatrix;
use treillage_trellis::{Bits, Codebook, EncodeConfig, Encoded};

use super::layer::shape;
use super::noise::Noise;
use super::reference::{Matrix, linear};
use super::{Failure, ensure};
use crate::{EncodeJob, Error, LinearShape, LinearWeights, Quantization};

/// A job, and rows distributed as its Hessian says.
fn job(
    seed: u64,
    bits: usize,
    size: LinearShape,
    calibrated: bool,
) -> Result<(EncodeJob, Vec<f32>), Error> {
    let LinearShape { in_features, .. } = size;
    let mut noise = Noise::new(seed);
    let weights = noise.values(size.weights());
    let mut rows = noise.values(300 * in_features);
    for row in rows.chunks_exact_mut(in_features) {
        // Neighbours are correlated, and a few channels are loud.
        for i in 1..in_features {
            row[i] += 0.5 * row[i - 1];
        }
        row[3] *= 5.0;
    }
    let hessian = calibrated.then(|| {
        let x = DMatrix::from_column_slice(in_features, 300, &rows);
        Arc::new(&x * x.transpose() / 300.0)
    });
    let job = EncodeJob {
        name: format!("linear {seed}"),
        weights,
        shape: size,
        hessian,
        config: EncodeConfig::new(Bits::new(bits)?, Codebook::Mul1, seed),
    };
    Ok((job, rows))
}

fn jobs() -> Result<Vec<(EncodeJob, Vec<f32>)>, Error> {
    [
        (3, shape(128, 128), true),
        (4, shape(100, 128), true),
        (4, shape(128, 60), false),
        (2, shape(140, 40), true),
    ]
    .into_iter()
    .enumerate()
    .map(|(seed, (bits, size, calibrated))| job(seed as u64, bits, size, calibrated))
    .collect()
}

/// An encoded linear, loaded again, computes what its weights did, as well as its rate allows and its report says.
pub fn encoded_linears_approximate_their_weights<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let (jobs, rows): (Vec<EncodeJob>, Vec<Vec<f32>>) = jobs()?.into_iter().unzip();
    let originals: Vec<(LinearShape, Vec<f32>, usize)> = jobs
        .iter()
        .map(|job| (job.shape, job.weights.clone(), job.config.bits.get()))
        .collect();
    let encoded = backend.encode(jobs)?;
    ensure(encoded.len() == originals.len(), || {
        "encoding returned another number of linears than it was given".to_owned()
    })?;
    for ((encoded, (size, weights, bits)), rows) in encoded.into_iter().zip(originals).zip(rows) {
        let what = format!("{size:?} at {bits} bits");
        let Encoded {
            linear: packed,
            report,
        } = encoded;
        ensure(packed.bits().get() == bits, || {
            format!("{what}: encoded at {} bits", packed.bits())
        })?;
        let loaded = backend.load_linear(LinearWeights::Trellis(Arc::new(packed)), size)?;
        let zeros = vec![0.0; 300 * size.out_features];
        let found = backend.read(&backend.project_add(
            &backend.upload(&rows, size.in_features)?,
            &loaded,
            &backend.upload(&zeros, size.out_features)?,
        )?)?;
        let weights = Matrix::new(&weights, size.in_features);
        let bias = vec![0.0; size.out_features];
        let expected =
            Matrix::new(&rows, size.in_features).map_rows(|x| linear(x, &weights, &bias));
        let (mut error, mut energy) = (0.0, 0.0);
        for (&found, expected) in found.iter().zip(&expected.values) {
            error += (f64::from(found) - expected).powi(2);
            energy += expected.powi(2);
        }
        let relative = error / energy;
        // Twice the distortion of the code on Gaussian weights, 0.07 · 4^(2 - K), is much for these sizes.
        let bound = 2.0 * 0.07 * 4f64.powi(2 - bits as i32);
        ensure(relative < bound, || {
            format!(
                "{what}: relative error {relative:.5} of the output, at most {bound:.5} expected"
            )
        })?;
        if report.fallback.is_none() {
            let claimed = report.relative_error;
            let close = (claimed - relative).abs() <= (0.02 + tolerance) * relative;
            ensure(close, || {
                format!("{what}: reported relative error {claimed}, measured {relative}")
            })?;
        }
    }
    Ok(())
}

/// A job gives the same words alone as among others.
pub fn encoding_depends_on_the_job_alone<B: Quantization>(
    backend: &B,
    _: f64,
) -> Result<(), Failure> {
    let together = backend.encode(jobs()?.into_iter().map(|(job, _)| job).collect())?;
    for (number, ((job, _), among)) in jobs()?.into_iter().zip(&together).enumerate() {
        let alone = backend.encode(vec![job])?;
        let same = alone.len() == 1
            && alone[0].linear.words() == among.linear.words()
            && alone[0].linear.suh() == among.linear.suh()
            && alone[0].linear.svh() == among.linear.svh()
            && alone[0].report == among.report;
        ensure(same, || {
            format!("job {number} is encoded differently alone than among others")
        })?;
    }
    Ok(())
}

/// A weight that is not finite is an error that names the linear.
pub fn weights_that_are_not_finite_are_refused<B: Quantization>(
    backend: &B,
    _: f64,
) -> Result<(), Failure> {
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let (mut broken, _) = job(7, 2, shape(128, 128), false)?;
        broken.weights[1000] = bad;
        let refused = match backend.encode(vec![broken]) {
            Err(error) => error.to_string().contains("linear 7"),
            Ok(_) => false,
        };
        ensure(refused, || {
            format!("a weight of {bad} was not refused by the name of its linear")
        })?;
    }
    Ok(())
}
