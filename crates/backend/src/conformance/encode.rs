//! Encoding linears.

use std::sync::Arc;

use nalgebra::DMatrix;
use treillage_gptq::{Config, Format, IntBits, Quantized, Rotation};
use treillage_trellis::{Bits, Codebook, EncodeConfig, Encoded, viterbi::Effort};

use super::layer::shape;
use super::noise::Noise;
use super::reference::{self, Matrix};
use super::{Failure, ensure};
use crate::{EncodeJob, Error, LinearShape, LinearWeights, Quantization};

/// A job, and rows distributed as its Hessian says.
type Job<C> = (EncodeJob<C>, Vec<f32>);

fn job<C>(seed: u64, config: C, size: LinearShape, calibrated: bool) -> Job<C> {
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
        config,
    };
    (job, rows)
}

fn jobs() -> Result<Vec<Job<EncodeConfig>>, Error> {
    [
        (3, shape(128, 128), true),
        (4, shape(100, 128), true),
        (4, shape(128, 60), false),
        (2, shape(140, 40), true),
    ]
    .into_iter()
    .zip(0..)
    .map(|((bits, size, calibrated), seed)| {
        // More effort is more of the same.
        let config = EncodeConfig {
            effort: Effort::Fast,
            ..EncodeConfig::new(Bits::new(bits)?, Codebook::Mul1, seed)
        };
        Ok(job(seed, config, size, calibrated))
    })
    .collect()
}

/// What a loaded linear gives for `rows`, relative to what `weights` do: the energy of the difference.
fn relative_error<B: Quantization>(
    backend: &B,
    linear: LinearWeights,
    size: LinearShape,
    weights: &[f32],
    rows: &[f32],
) -> Result<f64, Error> {
    let loaded = backend.load_linear(linear, size)?;
    let zeros = vec![0.0; rows.len() / size.in_features * size.out_features];
    let found = backend.read(&backend.project_add(
        &backend.upload(rows, size.in_features)?,
        &loaded,
        &backend.upload(&zeros, size.out_features)?,
    )?)?;
    let weights = Matrix::new(weights, size.in_features);
    let bias = vec![0.0; size.out_features];
    let expected =
        Matrix::new(rows, size.in_features).map_rows(|x| reference::linear(x, &weights, &bias));
    let (mut error, mut energy) = (0.0, 0.0);
    for (&found, expected) in found.iter().zip(&expected.values) {
        error += (f64::from(found) - expected).powi(2);
        energy += expected.powi(2);
    }
    Ok(error / energy)
}

/// An encoded linear, loaded again, computes what its weights did, as well as its rate allows and its report says.
pub fn encoded_linears_approximate_their_weights<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let (jobs, rows): (Vec<EncodeJob<EncodeConfig>>, Vec<Vec<f32>>) = jobs()?.into_iter().unzip();
    let originals: Vec<(LinearShape, Vec<f32>, usize)> = jobs
        .iter()
        .map(|job| (job.shape, job.weights.clone(), job.config.bits.get()))
        .collect();
    let encoded = backend.encode_trellis(jobs)?;
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
        let packed = LinearWeights::Trellis(Arc::new(packed));
        let relative = relative_error(backend, packed, size, &weights, &rows)?;
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
    let together = backend.encode_trellis(jobs()?.into_iter().map(|(job, _)| job).collect())?;
    for (number, ((job, _), among)) in jobs()?.into_iter().zip(&together).enumerate() {
        let alone = backend.encode_trellis(vec![job])?;
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
        let config = EncodeConfig::new(Bits::new(2).map_err(Error::from)?, Codebook::Mul1, 7);
        let (mut broken, _) = job(7, config, shape(128, 128), false);
        broken.weights[1000] = bad;
        let trellis = backend.encode_trellis(vec![broken]).map(|_| ());
        let (mut broken, _) = job(7, Config::new(Format::NvFp4), shape(128, 128), false);
        broken.weights[1000] = bad;
        let grouped = backend.encode_grouped(vec![broken]).map(|_| ());
        for (what, encoded) in [("trellis", trellis), ("grouped", grouped)] {
            let refused = match encoded {
                Err(error) => error.to_string().contains("linear 7"),
                Ok(()) => false,
            };
            ensure(refused, || {
                format!("{what}: a weight of {bad} was not refused by the name of its linear")
            })?;
        }
    }
    Ok(())
}

/// Every format, some of them rotated, one of them without calibration.
fn grouped_jobs() -> Vec<Job<Config>> {
    let mut configs: Vec<Config> = Format::ALL.map(Config::new).to_vec();
    configs.push(Config {
        group: 32,
        symmetric: false,
        ..Config::new(Format::Int(IntBits::Four))
    });
    configs.push(Config {
        rotation: Rotation::Block(32),
        ..Config::new(Format::MxFp4)
    });
    let last = configs.len() as u64 - 1;
    (0..)
        .zip(configs)
        .map(|(seed, config)| job(seed, config, shape(128, 40 + seed as usize), seed < last))
        .collect()
}

/// A linear quantized by groups, loaded again, computes what its weights did, as well as its format allows and its report
/// says.
pub fn grouped_linears_approximate_their_weights<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let (jobs, rows): (Vec<EncodeJob<Config>>, Vec<Vec<f32>>) = grouped_jobs().into_iter().unzip();
    let originals: Vec<(LinearShape, Vec<f32>, Config, bool)> = jobs
        .iter()
        .map(|job| {
            let calibrated = job.hessian.is_some();
            (
                job.shape,
                job.weights.clone(),
                job.config.clone(),
                calibrated,
            )
        })
        .collect();
    let quantized = backend.encode_grouped(jobs)?;
    ensure(quantized.len() == originals.len(), || {
        "quantizing returned another number of linears than it was given".to_owned()
    })?;
    for ((quantized, original), rows) in quantized.into_iter().zip(originals).zip(rows) {
        let (size, weights, config, calibrated) = original;
        let what = format!("{size:?} in groups of {} {}", config.group, config.format);
        let Quantized { linear, report } = quantized;
        let parts = linear.parts();
        let asked = (config.format.element(), config.group, config.rotation);
        ensure(
            (parts.element, parts.group, parts.rotation) == asked,
            || {
                format!(
                    "{what}: quantized to {:?} in groups of {}",
                    parts.element, parts.group
                )
            },
        )?;
        let grouped = LinearWeights::Grouped(Arc::new(linear));
        let relative = relative_error(backend, grouped, size, &weights, &rows)?;
        // Uniform weights, rounded to nearest on a grid over their range, have 4^-b of their energy as error; six times as much
        // leaves room for grids of odd size, and for four-bit floats.
        let bound = 6.0 * 4f64.powi(-(config.format.element().bits() as i32));
        ensure(relative < bound, || {
            format!(
                "{what}: relative error {relative:.6} of the output, at most {bound:.6} expected"
            )
        })?;
        if calibrated {
            let claimed = report.relative_error;
            let close = (claimed - relative).abs() <= (0.02 + tolerance) * relative;
            ensure(report.fallback.is_none() && close, || {
                format!(
                    "{what}: reported relative error {claimed} (fallback {:?}), measured {relative}",
                    report.fallback
                )
            })?;
        }
    }
    Ok(())
}

/// A job gives the same codes alone as among others.
pub fn grouping_depends_on_the_job_alone<B: Quantization>(
    backend: &B,
    _: f64,
) -> Result<(), Failure> {
    let jobs = || grouped_jobs().into_iter().map(|(job, _)| job);
    let together = backend.encode_grouped(jobs().collect())?;
    for (number, (job, among)) in jobs().zip(&together).enumerate() {
        let alone = backend.encode_grouped(vec![job])?;
        ensure(alone.len() == 1 && alone[0] == *among, || {
            format!("job {number} is quantized differently alone than among others")
        })?;
    }
    Ok(())
}
