//! From a weight matrix to trellis codes.

use std::sync::Arc;

use half::f16;
use nalgebra::DMatrix;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use treillage_linalg::{BlockLdl, Damping, block_ldl, hadamard};

use crate::refit::Fit;
use crate::regularize::{ROTATION, Regularized, regularize};
use crate::viterbi::Encoder;
use crate::{
    EncodeConfig, EncodeReport, Encoded, Error, Fallback, HessianMetric, PackedLinear, PackedParts,
    TILE, ldlq, scale_search,
};

/// Encodes `weights`, of shape (in, out) with both a multiple of 128, for inputs whose mean second moment `E[x xᵀ]` is
/// `hessian`, of shape (in, in).
///
/// Weights are scaled and rotated ([`EncodeConfig::out_scales`]), laid over the codebook at the best size, encoded with
/// feedback in the metric of the Hessian ([`EncodeConfig::metric`]) and given the scales that fit best
/// ([`EncodeConfig::refit`]). Without a usable Hessian each tile is encoded by itself, and the report says so.
///
/// The result does not depend on the number of threads.
///
/// # Errors
/// [`Error::Shape`], [`Error::NotFinite`] naming the first weight that is none, and [`Error::ScaleRange`] for weights too
/// large for half-precision scales.
pub fn encode_linear(
    weights: &DMatrix<f32>,
    hessian: Option<&DMatrix<f32>>,
    config: &EncodeConfig,
) -> Result<Encoded, Error> {
    check(weights, hessian)?;
    let activations = hessian.map(|h| h.diagonal().map(|h| h.max(0.0).sqrt()));
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let Regularized {
        weights: mut regular,
        mut input_scale,
        output_scale,
    } = regularize(
        weights,
        activations.as_ref().map(|a| a.as_slice()),
        config.out_scales,
        &mut rng,
    );

    let feedback = match hessian {
        Some(h) => feedback(h, &input_scale, config).ok_or(Fallback::DegenerateHessian),
        None => Err(Fallback::Uncalibrated),
    };
    let encoder = Encoder::new(config.bits, config.codebook);
    let mut scale = scale_search::search(&regular, config.bits, config.codebook, &encoder);
    if let (Ok(factors), HessianMetric::FullScale) = (&feedback, config.metric) {
        scale *= scale_search::room_for_feedback(factors, config.bits);
    }
    regular *= scale;
    input_scale.iter_mut().for_each(|s| *s /= scale);
    let lower = feedback.as_ref().ok().map(|f| &f.lower);
    let codes = ldlq::encode(&regular, lower, config.bits, config.codebook, &encoder);

    let (mut suh, mut svh) = stored_scales(&input_scale, &output_scale)?;
    let mut inner = codes.values;
    hadamard::rotate_rows(&mut inner, ROTATION);
    hadamard::rotate_columns(&mut inner, ROTATION);
    let damping = feedback.as_ref().map_or(0.0, |f| f.damping);
    let fit = Fit::new(
        weights,
        inner,
        hessian.filter(|_| feedback.is_ok()),
        damping,
    );
    if config.refit {
        suh = fit.input_scale(&suh, &svh);
        svh = fit.output_scale(&suh, &svh);
    }
    let report = EncodeReport {
        relative_error: fit.relative_error(&suh, &svh),
        damping,
        scale,
        fallback: feedback.err(),
    };
    let linear = PackedLinear::new(PackedParts {
        words: Arc::new(codes.words),
        shape: [
            weights.nrows() / TILE,
            weights.ncols() / TILE,
            config.bits.words_per_tile(),
        ],
        codebook: config.codebook,
        suh,
        svh,
        bias: None,
    })?;
    Ok(Encoded { linear, report })
}

fn check(weights: &DMatrix<f32>, hessian: Option<&DMatrix<f32>>) -> Result<(), Error> {
    let (rows, columns) = weights.shape();
    for (what, found) in [("input features", rows), ("output features", columns)] {
        let expected = found.next_multiple_of(ROTATION).max(ROTATION);
        if found != expected {
            return Err(Error::Shape {
                what,
                expected,
                found,
            });
        }
    }
    if let Some(h) = hessian {
        for (what, found) in [
            ("rows of the Hessian", h.nrows()),
            ("columns of the Hessian", h.ncols()),
        ] {
            if found != rows {
                return Err(Error::Shape {
                    what,
                    expected: rows,
                    found,
                });
            }
        }
    }
    match weights.iter().position(|w| !w.is_finite()) {
        Some(at) => Err(Error::NotFinite {
            value: weights[at],
            input: at % rows,
            output: at / rows,
        }),
        None => Ok(()),
    }
}

/// The factorization of the damped Hessian in the rotated basis; `None` if it carries no signal or cannot be factorized.
fn feedback(
    hessian: &DMatrix<f32>,
    input_scale: &[f32],
    config: &EncodeConfig,
) -> Option<BlockLdl> {
    let inputs = hessian.nrows();
    let mean = hessian
        .diagonal()
        .iter()
        .map(|h| f64::from(*h))
        .sum::<f64>()
        / inputs as f64;
    let damping = f64::from(config.damping) * mean;
    if !(damping.is_finite() && mean > f64::from(f32::MIN_POSITIVE)) {
        return None;
    }
    let factor = |i: usize| match config.metric {
        HessianMetric::FullScale => input_scale[i],
        HessianMetric::SignsOnly => input_scale[i].signum(),
    };
    let factors: Vec<f32> = (0..inputs).map(factor).collect();
    // Weights can be tiny, their squares times the Hessian more so: only ratios matter, so take out the common size.
    let size = factors.iter().map(|f| f64::from(*f).powi(2)).sum::<f64>() / inputs as f64 * mean;
    let mut rotated = DMatrix::from_fn(inputs, inputs, |i, j| {
        let damped = f64::from(hessian[(i, j)]) + if i == j { damping } else { 0.0 };
        (damped * f64::from(factors[i]) * f64::from(factors[j]) / size) as f32
    });
    hadamard::rotate_both(&mut rotated, ROTATION);
    // Damped already: more only where rounding has made it indefinite.
    let factored = block_ldl(
        &rotated,
        TILE,
        Damping {
            fraction: 0.0,
            growth: 10.0,
            attempts: 8,
        },
    )
    .ok()?;
    let added = f64::from(factored.damping) * mean;
    Some(BlockLdl {
        damping: (damping + added) as f32,
        ..factored
    })
}

/// Scales in half precision. If the inputs' are of a size that half precision represents badly, a power of two moves over to
/// the outputs'. A scale too small beside the others becomes zero, and its channel with it.
fn stored_scales(input: &[f32], output: &[f32]) -> Result<(Vec<f16>, Vec<f16>), Error> {
    let squares: f64 = input.iter().map(|s| f64::from(*s).powi(2)).sum();
    let exponent = (squares / input.len() as f64).sqrt().log2().round();
    // Half precision is whole from 2^-14 up to 2^15: eight binary digits of headroom for channels that differ, as long as
    // the other side need not take more than half.
    let half = (exponent / 2.0).round();
    let shift = (exponent - exponent.clamp(half.min(-6.0), half.max(7.0))).exp2();
    let store = |scales: &[f32], factor: f64| -> Result<Vec<f16>, Error> {
        let stored = |&s: &f32| {
            let h = f16::from_f64(f64::from(s) * factor);
            if h.is_finite() {
                Ok(h)
            } else {
                Err(Error::ScaleRange(s))
            }
        };
        scales.iter().map(stored).collect()
    };
    Ok((store(input, 1.0 / shift)?, store(output, shift)?))
}
