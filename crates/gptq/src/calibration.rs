use nalgebra::DMatrix;
use treillage_linalg::gptq_factor;

use crate::{
    Config, Error, Fallback, GroupedLinear, Parts, Quantized, Report, Rotation, Solver,
    choose_scales,
    fidelity::{check_square, relative_error},
    linear::{check_group, check_rotation},
    pack, round_to_nearest,
    solve::{Feedback, Problem, sweep},
};

/// The inputs of linears, made ready for the sweep: rotated, ordered, factorized. Linears that share an input, such as q, k and v,
/// or an expert's gate and up, share the work.
///
/// ```
/// use nalgebra::DMatrix;
/// use treillage_gptq::{Calibration, Config, Format};
///
/// let hessian = DMatrix::from_fn(64, 64, |i, j| if i == j { 2.0 } else { 1.0 });
/// let (gate, up) = (DMatrix::from_fn(64, 8, |i, o| (i + o) as f32), DMatrix::from_fn(64, 8, |i, o| (i * o) as f32));
/// let inputs = Calibration::new(Some(&hessian), 64, &Config::new(Format::MxFp4))?;
/// for weights in [gate, up] {
///     println!("{:.4}", inputs.quantize(&weights)?.report.relative_error);
/// }
/// # Ok::<(), treillage_gptq::Error>(())
/// ```
#[derive(Debug)]
pub struct Calibration<'a> {
    config: Config,
    in_features: usize,
    hessian: Option<&'a DMatrix<f32>>,
    outcome: Outcome,
}

/// What there is to go by.
#[derive(Debug)]
enum Outcome {
    Sweep(Inputs),
    /// Weights are rounded to nearest, for a reason or because that was asked for.
    Nearest(Option<Fallback>),
}

#[derive(Debug)]
struct Inputs {
    feedback: Feedback,
    /// Input `i` of the sweep is input `order[i]` of the rotated matrix.
    order: Vec<usize>,
    /// Inputs of the layer that were never active.
    dead: Vec<usize>,
    /// `V_ii²` of each rotated input: what its rounding error costs once later inputs have made up for it as far as they can.
    importance: Vec<f32>,
    damping: f32,
    attempts: u32,
}

impl<'a> Calibration<'a> {
    /// Makes ready the inputs whose mean second moment `E[x xᵀ]` is `hessian`, symmetric and in the layer's own basis; a factor
    /// common to all of it changes nothing. `None` where no token came.
    ///
    /// # Errors
    /// [`Error::Group`], [`Error::Rotation`], [`Error::Shape`] for a Hessian that is not `in_features` square. One that holds no
    /// numbers, or none to go by, is no error but a [`Fallback`].
    pub fn new(
        hessian: Option<&'a DMatrix<f32>>,
        in_features: usize,
        config: &Config,
    ) -> Result<Self, Error> {
        check_group(config.group, in_features)?;
        check_rotation(config.rotation, in_features)?;
        if let Some(hessian) = hessian {
            check_square(hessian, in_features)?;
        }
        let usable = hessian.filter(|hessian| is_usable(hessian));
        let outcome = match (config.solver, hessian, usable) {
            (Solver::Rtn, ..) => Outcome::Nearest(None),
            (Solver::Gptq, None, _) => Outcome::Nearest(Some(Fallback::Uncalibrated)),
            (Solver::Gptq, _, None) => Outcome::Nearest(Some(Fallback::DegenerateHessian)),
            (Solver::Gptq, _, Some(hessian)) => match Inputs::new(hessian, config) {
                Ok(inputs) => Outcome::Sweep(inputs),
                Err(fallback) => Outcome::Nearest(Some(fallback)),
            },
        };
        Ok(Self {
            config: config.clone(),
            in_features,
            hessian: usable,
            outcome,
        })
    }

    /// Quantizes `weights`, of shape (in, out), and measures how well that went.
    ///
    /// # Errors
    /// As [`quantize_linear`](crate::quantize_linear).
    pub fn quantize(&self, weights: &DMatrix<f32>) -> Result<Quantized, Error> {
        let linear = self.encode(weights)?;
        let relative_error = relative_error(weights, &linear, self.hessian)?;
        let report = match &self.outcome {
            Outcome::Sweep(inputs) => Report {
                relative_error,
                damping: inputs.damping,
                attempts: inputs.attempts,
                dead_inputs: inputs.dead.len(),
                fallback: None,
            },
            &Outcome::Nearest(fallback) => Report {
                relative_error,
                damping: 0.0,
                attempts: 0,
                dead_inputs: 0,
                fallback,
            },
        };
        Ok(Quantized { linear, report })
    }

    /// Quantizes `weights`, of shape (in, out), and leaves it at that: measuring takes longer than the sweep.
    ///
    /// # Errors
    /// As [`quantize_linear`](crate::quantize_linear).
    pub fn encode(&self, weights: &DMatrix<f32>) -> Result<GroupedLinear, Error> {
        let Self {
            config,
            in_features,
            outcome,
            ..
        } = self;
        let (inputs, outputs) = weights.shape();
        if inputs != *in_features {
            return Err(Error::Shape {
                what: "rows of weights",
                expected: *in_features,
                found: inputs,
            });
        }
        let changed: DMatrix<f32>;
        let weights = match (outcome, config.rotation) {
            (Outcome::Sweep(Inputs { dead, .. }), Rotation::None) if dead.is_empty() => weights,
            (Outcome::Nearest(_), Rotation::None) => weights,
            (outcome, rotation) => {
                // While it is known which input is which; otherwise choosing scales will find it.
                check_finite(weights)?;
                let mut copy = weights.clone();
                if let Outcome::Sweep(inputs) = outcome {
                    silence(&mut copy, &inputs.dead);
                }
                rotation.apply_to_weights(&mut copy);
                changed = copy;
                &changed
            }
        };
        // Columns of shape (in, out) are rows of shape (out, in).
        let weights = weights.as_slice();
        let element = config.format.element();
        let importance = match outcome {
            Outcome::Sweep(inputs) => Some(&inputs.importance[..]),
            Outcome::Nearest(_) => None,
        };
        let scales = choose_scales(weights, outputs, inputs, config, importance)?;
        let codes = match outcome {
            Outcome::Sweep(Inputs {
                feedback, order, ..
            }) => sweep(&Problem {
                weights,
                in_features: inputs,
                element,
                group: config.group,
                scales: &scales,
                order,
                feedback,
            }),
            Outcome::Nearest(_) => {
                let codes = round_to_nearest(weights, outputs, inputs, &scales, config)?;
                pack::to_stored(codes, element)
            }
        };
        GroupedLinear::new(Parts {
            in_features: inputs,
            out_features: outputs,
            element,
            group: config.group,
            codes,
            scales: scales.scales,
            zeros: scales.zeros,
            order: None,
            rotation: config.rotation,
            bias: None,
        })
    }
}

impl Inputs {
    fn new(hessian: &DMatrix<f32>, config: &Config) -> Result<Self, Fallback> {
        let dead: Vec<usize> = (0..hessian.nrows())
            .filter(|&i| hessian[(i, i)] <= 0.0)
            .collect();
        let changed: DMatrix<f32>;
        let hessian = if dead.is_empty() && config.rotation == Rotation::None {
            hessian
        } else {
            let mut copy = hessian.clone();
            isolate(&mut copy, &dead, config.rotation);
            config.rotation.apply_to_hessian(&mut copy);
            changed = copy;
            &changed
        };
        let diagonal = hessian.diagonal();
        let mut order: Vec<usize> = (0..diagonal.len()).collect();
        if config.act_order {
            order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
        }
        let factor =
            gptq_factor(hessian, Some(&order), config.damping).map_err(|error| match error {
                treillage_linalg::Error::NotPositiveDefinite { .. } => Fallback::Indefinite,
                _ => Fallback::DegenerateHessian,
            })?;
        let mut importance = vec![0.0; order.len()];
        for (&input, &pivot) in order.iter().zip(factor.upper.diagonal().iter()) {
            importance[input] = pivot * pivot;
        }
        Ok(Self {
            feedback: Feedback::new(&factor.upper),
            order,
            dead,
            importance,
            damping: factor.damping,
            attempts: factor.attempts,
        })
    }
}

/// Whether there are numbers to go by.
fn is_usable(hessian: &DMatrix<f32>) -> bool {
    let finite = hessian
        .iter()
        .fold(true, |finite, h| finite & h.is_finite());
    finite && (0..hessian.nrows()).any(|i| hessian[(i, i)] > 0.0)
}

/// Cuts dead inputs off from the others. Where they stay inputs of their own they get the mean diagonal of those, so that no
/// damping depends on how many they are; rotated ones keep their zero, and rounding errors may hide there.
fn isolate(hessian: &mut DMatrix<f32>, dead: &[usize], rotation: Rotation) {
    for &i in dead {
        hessian.row_mut(i).fill(0.0);
        hessian.column_mut(i).fill(0.0);
    }
    if rotation == Rotation::None {
        let live = (hessian.nrows() - dead.len()).max(1) as f64;
        let sum: f64 = hessian.diagonal().iter().map(|&h| f64::from(h)).sum();
        for &i in dead {
            hessian[(i, i)] = (sum / live) as f32;
        }
    }
}

/// What a dead input is multiplied by changes nothing but the scale of its group.
fn silence(weights: &mut DMatrix<f32>, dead: &[usize]) {
    for &i in dead {
        weights.row_mut(i).fill(0.0);
    }
}

fn check_finite(weights: &DMatrix<f32>) -> Result<(), Error> {
    let finite = weights
        .iter()
        .fold(true, |finite, w| finite & w.is_finite());
    if finite {
        return Ok(());
    }
    let at = weights
        .iter()
        .position(|w| !w.is_finite())
        .unwrap_or_default();
    Err(Error::NotFinite {
        value: weights[at],
        input: at % weights.nrows(),
        output: at / weights.nrows(),
    })
}
