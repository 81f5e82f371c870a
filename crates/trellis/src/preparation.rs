//! What comes before a linear's codes are made, and what after: the same whoever makes them.

use std::borrow::Cow;
use std::sync::Arc;

use half::f16;
use nalgebra::DMatrix;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use treillage_linalg::{BlockLdl, Damping, block_ldl, hadamard};

use crate::refit::Fit;
use crate::regularize::{ROTATION, Regularized, regularize};
use crate::scale_search::{self, Trial};
use crate::{
    EncodeConfig, EncodeReport, Encoded, Error, Fallback, HessianMetric, PackedLinear, PackedParts,
    TILE, TILE_WEIGHTS,
};

/// A linear on its way to codes. [`encode_linear`](crate::encode_linear) goes all of it; whoever makes codes elsewhere does what it
/// does: encodes [`Preparation::samples`], [settles](Preparation::settle) the scale, encodes [`Preparation::targets`] from the last
/// 16 rows to the first with [`Preparation::feedback`], fits scales to [what is asked of them](Preparation::to_fit) – or has them
/// [fitted](Preparation::fit) –, and [finishes](Preparation::finish).
#[derive(Debug)]
pub struct Preparation<'a> {
    config: EncodeConfig,
    weights: Cow<'a, DMatrix<f32>>,
    hessian: Option<Cow<'a, DMatrix<f32>>>,
    /// What is encoded: at first of unit variance, and once it is settled in units of the codebook.
    regular: DMatrix<f32>,
    input_scale: Vec<f32>,
    output_scale: Vec<f32>,
    feedback: Result<BlockLdl, Fallback>,
    trial: Trial,
    scale: f32,
}

impl<'a> Preparation<'a> {
    /// Scales and rotates `weights`, of shape (in, out), and factors `hessian`, of shape (in, in).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NotFinite`] naming the first weight that is none.
    pub fn new(
        weights: Cow<'a, DMatrix<f32>>,
        hessian: Option<Cow<'a, DMatrix<f32>>>,
        config: &EncodeConfig,
    ) -> Result<Self, Error> {
        check(&weights, hessian.as_deref())?;
        let activations = hessian
            .as_ref()
            .map(|h| h.diagonal().map(|h| h.max(0.0).sqrt()));
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let Regularized {
            weights: regular,
            input_scale,
            output_scale,
        } = regularize(
            &weights,
            activations.as_ref().map(|a| a.as_slice()),
            config.out_scales,
            &mut rng,
        );
        let feedback = match &hessian {
            Some(h) => feedback(h, &input_scale, config).ok_or(Fallback::DegenerateHessian),
            None => Err(Fallback::Uncalibrated),
        };
        Ok(Self {
            trial: Trial::new(&regular, config.bits, config.codebook),
            config: config.clone(),
            weights,
            hessian,
            regular,
            input_scale,
            output_scale,
            feedback,
            scale: 1.0,
        })
    }

    /// Tiles, in trellis order and in units of the codebook, whose codes tell at what size weights are best laid over it; none where
    /// that is known anyway. Each is to be encoded by itself.
    pub fn samples(&self) -> Vec<[f32; TILE_WEIGHTS]> {
        self.trial.samples()
    }

    /// Takes the scale that `states` of all [samples](Preparation::samples) speak for.
    ///
    /// # Panics
    /// If they are not as many.
    pub fn settle(&mut self, states: &[[u16; TILE_WEIGHTS]]) {
        self.scale = self.trial.best(states, self.config.codebook);
        if let (Ok(factors), HessianMetric::FullScale) = (&self.feedback, self.config.metric) {
            self.scale *= scale_search::room_for_feedback(factors, self.config.bits);
        }
        self.regular *= self.scale;
        self.input_scale.iter_mut().for_each(|s| *s /= self.scale);
    }

    /// What is to be encoded, (in, out), in units of the codebook once the scale is settled.
    pub fn targets(&self) -> &DMatrix<f32> {
        &self.regular
    }

    /// `L` of the Hessian's factors, strictly below the diagonal blocks of 16 rows: an error `E` of the rows from `end` on adds
    /// `L[end.., block]ᵀ E` to the targets of the block before them. `None` where each tile is encoded by itself.
    pub fn feedback(&self) -> Option<&DMatrix<f32>> {
        self.feedback.as_ref().ok().map(|factors| &factors.lower)
    }

    /// What the scales of this linear are fitted to, once they are settled.
    ///
    /// # Errors
    /// [`Error::ScaleRange`] for weights too large for half-precision scales.
    pub fn to_fit(&self) -> Result<ToFit<'_>, Error> {
        let (suh, svh) = stored_scales(&self.input_scale, &self.output_scale)?;
        let hessian = self.hessian.as_deref();
        Ok(ToFit {
            weights: &self.weights,
            hessian: hessian.filter(|_| self.feedback.is_ok()),
            damping: self.damping(),
            refit: self.config.refit,
            suh,
            svh,
        })
    }

    /// The scales that fit `words` best, packed tiles row-major.
    ///
    /// # Errors
    /// [`Error::ScaleRange`]; [`Error::Shape`] if words are not as many.
    pub fn fit(&self, words: &[u16]) -> Result<Fitted, Error> {
        let ToFit {
            weights,
            hessian,
            damping,
            refit,
            mut suh,
            mut svh,
        } = self.to_fit()?;
        let linear = self.linear(words.to_vec(), suh.clone(), svh.clone())?;
        let mut inner = linear.decode_inner();
        hadamard::rotate_rows(&mut inner, ROTATION);
        hadamard::rotate_columns(&mut inner, ROTATION);
        let fit = Fit::new(weights, inner, hessian, damping);
        if refit {
            suh = fit.input_scale(&suh, &svh);
        }
        let fit = fit.with_input(&suh);
        if refit {
            svh = fit.output_scale(&svh);
        }
        Ok(Fitted {
            relative_error: fit.relative_error(&svh),
            suh,
            svh,
        })
    }

    /// The linear with `words` and the scales that were fitted to them.
    ///
    /// # Errors
    /// [`Error::Shape`] if words or scales are not as many.
    pub fn finish(self, words: Vec<u16>, fitted: Fitted) -> Result<Encoded, Error> {
        let report = EncodeReport {
            relative_error: fitted.relative_error,
            damping: self.damping(),
            scale: self.scale,
            fallback: self.feedback.as_ref().err().copied(),
        };
        let linear = self.linear(words, fitted.suh, fitted.svh)?;
        Ok(Encoded { linear, report })
    }

    fn damping(&self) -> f32 {
        self.feedback.as_ref().map_or(0.0, |f| f.damping)
    }

    fn linear(&self, words: Vec<u16>, suh: Vec<f16>, svh: Vec<f16>) -> Result<PackedLinear, Error> {
        PackedLinear::new(PackedParts {
            words: Arc::new(words),
            shape: [
                self.weights.nrows() / TILE,
                self.weights.ncols() / TILE,
                self.config.bits.words_per_tile(),
            ],
            codebook: self.config.codebook,
            suh,
            svh,
            bias: None,
        })
    }
}

/// What the scales of a linear are fitted to: `W ≈ diag(suh) · Q · diag(svh)` in the metric of its inputs, where `Q` are the values of
/// its codes in the original basis.
#[derive(Clone, Debug)]
pub struct ToFit<'a> {
    /// `W`, (in, out).
    pub weights: &'a DMatrix<f32>,
    /// `E[x xᵀ]`, (in, in); the identity without.
    pub hessian: Option<&'a DMatrix<f32>>,
    /// Added to the Hessian's diagonal for fitting, so that few tokens do not fit too well; not for the error.
    pub damping: f32,
    /// Whether scales are fitted, or stay what they are.
    pub refit: bool,
    /// The inputs' scales to begin with.
    pub suh: Vec<f16>,
    /// The outputs'.
    pub svh: Vec<f16>,
}

impl ToFit<'_> {
    /// Steps of conjugate gradients for the scales of inputs. Rows of trellis values are nearly uncorrelated, so a few reach the
    /// precision of f16.
    pub const STEPS: usize = 8;
}

/// The scales that a linear is stored with.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Of inputs.
    pub suh: Vec<f16>,
    /// Of outputs.
    pub svh: Vec<f16>,
    /// `tr(Eᵀ H E) / tr(Wᵀ H W)` with them, undamped; 0 where no weight counts.
    pub relative_error: f64,
}

/// `matrix` with zero rows and columns up to multiples of [`ROTATION`].
pub fn padded(matrix: Cow<'_, DMatrix<f32>>) -> Cow<'_, DMatrix<f32>> {
    let (rows, columns) = matrix.shape();
    let (tall, wide) = (
        rows.next_multiple_of(ROTATION),
        columns.next_multiple_of(ROTATION),
    );
    match (tall, wide) == (rows, columns) {
        true => matrix,
        false => Cow::Owned(matrix.into_owned().resize(tall, wide, 0.0)),
    }
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
