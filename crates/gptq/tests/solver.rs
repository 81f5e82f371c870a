//! The sweep against what it is meant to be, written down slowly; and what it does with inputs that are no good.
// Helpers outside of test functions are test code too.
#![allow(clippy::unwrap_used)]

use nalgebra::DMatrix;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use treillage_gptq::{
    Calibration, Config, Element, Error, Fallback, Format, GroupedLinear, IntBits, MxRule,
    Rotation, ScaleRule, Solver, e2m1, int, quantize_linear, relative_error,
};
use treillage_linalg::{Damping, Hessian, hadamard};

/// Draws that are roughly normal.
fn normal(rows: usize, columns: usize, seed: u64) -> DMatrix<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    DMatrix::from_fn(rows, columns, |_, _| {
        let sum: f32 = (0..6).map(|_| rng.random_range(-1.0..1.0f32)).sum();
        sum / 2f32.sqrt()
    })
}

/// The second moment of `tokens` inputs that depend on one another and differ in size.
fn second_moment(n: usize, tokens: usize, seed: u64) -> DMatrix<f32> {
    let mut mix = normal(n, n, seed) / (n as f32).sqrt();
    for i in 0..n {
        mix[(i, i)] += 0.5;
        mix.row_mut(i).scale_mut(2f32.powi((i * 7 % 5) as i32 - 2));
    }
    let x = mix * normal(n, tokens, seed + 1);
    let mut hessian = Hessian::new(n);
    hessian.update(x.as_slice()).unwrap();
    hessian.mean()
}

/// Scales that no importance of inputs changes.
fn config(format: Format) -> Config {
    Config {
        scales: ScaleRule::Minmax,
        four_over_six: false,
        mx_rule: MxRule::FpQuant,
        ..Config::new(format)
    }
}

fn int4(group: usize) -> Config {
    Config {
        group,
        ..config(Format::Int(IntBits::Four))
    }
}

fn wide(matrix: &DMatrix<f32>) -> DMatrix<f64> {
    matrix.map(f64::from)
}

/// Shape (in, out), in the layer's own basis.
fn dequantized(linear: &GroupedLinear) -> DMatrix<f32> {
    DMatrix::from_vec(
        linear.in_features(),
        linear.out_features(),
        linear.dequantize(),
    )
}

/// `tr(D H Dᵀ) / tr(W H Wᵀ)` by definition.
fn error_by_definition(weights: &DMatrix<f32>, q: &DMatrix<f32>, h: &DMatrix<f32>) -> f64 {
    let (w, h) = (wide(weights), wide(h));
    let d = &w - wide(q);
    (d.transpose() * &h * d).trace() / (w.transpose() * h * w).trace()
}

/// The value nearest to `target` that the linear's weight from `input` to `output` can have, by trying all codes.
fn nearest(linear: &GroupedLinear, output: usize, input: usize, target: f64) -> f64 {
    let parts = linear.parts();
    let at = output * linear.groups() + input / parts.group;
    let scale = f64::from(parts.scales.get(at));
    let middle = parts.element.middle();
    let zero = parts.zeros.as_ref().map_or(middle, |zeros| zeros[at]);
    let value = |code: u8| {
        scale
            * f64::from(match parts.element {
                Element::E2m1 => e2m1::decode(code),
                Element::Int(_) => int::decode(code, zero),
            })
    };
    let distance = |code: &u8| (value(*code) - target).abs();
    let codes = 0..=((1u16 << parts.element.bits()) - 1) as u8;
    value(
        codes
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .unwrap(),
    )
}

/// What a sweep has to go by: weights (in, out) and Hessian, damped, both in the order of the sweep.
struct Ordered {
    order: Vec<usize>,
    weights: DMatrix<f64>,
    hessian: DMatrix<f64>,
}

impl Ordered {
    fn new(weights: &DMatrix<f32>, h: &DMatrix<f32>, config: &Config, damping: f32) -> Self {
        let n = h.nrows();
        let mut order: Vec<usize> = (0..n).collect();
        if config.act_order {
            order.sort_by(|&a, &b| h[(b, b)].total_cmp(&h[(a, a)]));
        }
        let damped = wide(h) + DMatrix::identity(n, n) * f64::from(damping);
        Self {
            weights: DMatrix::from_fn(n, weights.ncols(), |i, o| f64::from(weights[(order[i], o)])),
            hessian: DMatrix::from_fn(n, n, |i, j| damped[(order[i], order[j])]),
            order,
        }
    }

    fn restored(&self, q: &DMatrix<f64>) -> DMatrix<f32> {
        let mut restored = DMatrix::zeros(q.nrows(), q.ncols());
        for (i, &input) in self.order.iter().enumerate() {
            restored
                .row_mut(input)
                .copy_from(&q.row(i).map(|x| x as f32));
        }
        restored
    }
}

/// GPTQ as its paper has it: Cholesky of the inverse, errors pushed onto the weights that are left.
fn textbook(ordered: &Ordered, linear: &GroupedLinear) -> DMatrix<f32> {
    let mut w = ordered.weights.clone();
    let inverse = ordered.hessian.clone().try_inverse().unwrap();
    let u = inverse.cholesky().unwrap().l().transpose();
    let (n, outputs) = w.shape();
    let mut q = DMatrix::zeros(n, outputs);
    for i in 0..n {
        for o in 0..outputs {
            q[(i, o)] = nearest(linear, o, ordered.order[i], w[(i, o)]);
            let error = (w[(i, o)] - q[(i, o)]) / u[(i, i)];
            for j in i + 1..n {
                w[(j, o)] -= error * u[(i, j)];
            }
        }
    }
    ordered.restored(&q)
}

/// Optimal brain quantization of one input after another, with an inverse for each.
fn one_by_one(ordered: &Ordered, linear: &GroupedLinear) -> DMatrix<f32> {
    let mut w = ordered.weights.clone();
    let (n, outputs) = w.shape();
    let mut q = DMatrix::zeros(n, outputs);
    for i in 0..n {
        let rest = ordered.hessian.view((i, i), (n - i, n - i)).clone_owned();
        let inverse = rest.try_inverse().unwrap();
        for o in 0..outputs {
            q[(i, o)] = nearest(linear, o, ordered.order[i], w[(i, o)]);
            let error = (w[(i, o)] - q[(i, o)]) / inverse[(0, 0)];
            for j in 0..n - i {
                w[(i + j, o)] -= error * inverse[(j, 0)];
            }
        }
    }
    ordered.restored(&q)
}

fn share_of_equals(a: &DMatrix<f32>, b: &DMatrix<f32>) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| (**a - **b).abs() < 1e-5);
    equal.count() as f64 / a.len() as f64
}

#[test]
fn pulling_is_pushing() {
    let (n, outputs) = (288, 24);
    let weights = normal(n, outputs, 1);
    let h = second_moment(n, 700, 2);
    let formats = Format::ALL.map(|format| (format, true));
    let asymmetric = [IntBits::Three, IntBits::Four].map(|bits| (Format::Int(bits), false));
    for (format, symmetric) in formats.into_iter().chain(asymmetric) {
        for act_order in [true, false] {
            let group = match format.has_free_group() {
                true => 96,
                false => format.default_group(),
            };
            let config = Config {
                act_order,
                symmetric,
                group,
                ..config(format)
            };
            let ours = quantize_linear(&weights, Some(&h), &config).unwrap();
            assert_eq!((ours.report.attempts, ours.report.fallback), (1, None));
            let ordered = Ordered::new(&weights, &h, &config, ours.report.damping);
            let theirs = textbook(&ordered, &ours.linear);
            let q = dequantized(&ours.linear);
            let equal = share_of_equals(&q, &theirs);
            assert!(equal > 0.995, "{format}: {equal}");
            let error = ours.report.relative_error;
            let expected = error_by_definition(&weights, &theirs, &h);
            assert!(
                (error / expected - 1.0).abs() < 2e-3,
                "{format}: {error} {expected}"
            );
            let definition = error_by_definition(&weights, &q, &h);
            assert!(
                (error / definition - 1.0).abs() < 1e-4,
                "{error} {definition}"
            );
        }
    }
}

#[test]
fn pulling_is_brain_surgery_one_input_at_a_time() {
    let weights = normal(64, 12, 3);
    let h = second_moment(64, 200, 4);
    let config = Config {
        group: 32,
        ..config(Format::Int(IntBits::Three))
    };
    let ours = quantize_linear(&weights, Some(&h), &config).unwrap();
    let ordered = Ordered::new(&weights, &h, &config, ours.report.damping);
    let theirs = one_by_one(&ordered, &ours.linear);
    let equal = share_of_equals(&dequantized(&ours.linear), &theirs);
    assert!(equal > 0.995, "{equal}");
}

#[test]
fn the_sweep_beats_rounding() {
    let weights = normal(256, 48, 5);
    let h = second_moment(256, 1000, 6);
    for format in Format::ALL {
        for rotation in [Rotation::None, Rotation::Block(64)] {
            for scales in [ScaleRule::Minmax, ScaleRule::Mse] {
                let error = |solver| {
                    let config = Config {
                        rotation,
                        scales,
                        solver,
                        ..config(format)
                    };
                    let quantized = quantize_linear(&weights, Some(&h), &config).unwrap();
                    quantized.report.relative_error
                };
                let (gptq, rtn) = (error(Solver::Gptq), error(Solver::Rtn));
                assert!(
                    gptq < 0.8 * rtn,
                    "{format} {rotation:?} {scales:?}: {gptq} {rtn}"
                );
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let weights = normal(384, 150, 7);
    let h = second_moment(384, 900, 8);
    for format in [Format::Int(IntBits::Four), Format::NvFp4] {
        let config = Config {
            rotation: Rotation::Block(128),
            ..Config::new(format)
        };
        let results = [1, 2, 3, 8].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| quantize_linear(&weights, Some(&h), &config).unwrap())
        });
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn an_output_does_not_depend_on_its_neighbours() {
    let weights = normal(160, 70, 9);
    let h = second_moment(160, 400, 10);
    let whole = quantize_linear(&weights, Some(&h), &int4(32)).unwrap();
    let last = weights.columns(69, 1).clone_owned();
    let alone = quantize_linear(&last, Some(&h), &int4(32)).unwrap();
    assert_eq!(
        whole.linear.dequantize()[69 * 160..],
        alone.linear.dequantize()[..]
    );
}

#[test]
fn a_calibration_serves_linears_one_by_one() {
    let h = second_moment(128, 400, 11);
    let config = Config::new(Format::MxFp4);
    let shared = Calibration::new(Some(&h), 128, &config).unwrap();
    for seed in [12, 13] {
        let weights = normal(128, 20, seed);
        let alone = quantize_linear(&weights, Some(&h), &config).unwrap();
        assert_eq!(shared.encode(&weights).unwrap(), alone.linear);
        assert_eq!(shared.quantize(&weights).unwrap(), alone);
    }
}

#[test]
fn rotated_weights_meet_a_rotated_hessian() {
    let weights = normal(256, 40, 14);
    let h = second_moment(256, 800, 15);
    for block in Rotation::BLOCKS {
        let config = Config {
            rotation: Rotation::Block(block),
            ..config(Format::NvFp4)
        };
        let ours = quantize_linear(&weights, Some(&h), &config).unwrap();
        assert_eq!(ours.linear.parts().rotation, Rotation::Block(block));
        let expected = error_by_definition(&weights, &dequantized(&ours.linear), &h);
        let error = ours.report.relative_error;
        assert!((error / expected - 1.0).abs() < 1e-4, "{error} {expected}");

        // The same by hand: both rotated, then quantized without a rotation.
        let (mut w, mut rotated) = (weights.clone(), h.clone());
        hadamard::rotate_rows(&mut w, block);
        hadamard::rotate_both(&mut rotated, block);
        let unrotated = Config {
            rotation: Rotation::None,
            ..config
        };
        let by_hand = quantize_linear(&w, Some(&rotated), &unrotated).unwrap();
        assert_eq!(by_hand.linear.parts().codes, ours.linear.parts().codes);
        let same = by_hand.report.relative_error / error;
        assert!((same - 1.0).abs() < 1e-4, "{same}");
    }
}

#[test]
fn dead_inputs_are_silenced_and_counted() {
    const DEAD: [usize; 3] = [0, 41, 95];
    let mut weights = normal(96, 10, 16);
    let mut h = second_moment(96, 300, 17);
    for dead in DEAD {
        h.row_mut(dead).fill(0.0);
        h.column_mut(dead).fill(0.0);
        weights.row_mut(dead).scale_mut(50.0);
    }
    for damping in [Damping::new(0.01), Damping::none()] {
        let config = Config {
            damping,
            ..int4(32)
        };
        let ours = quantize_linear(&weights, Some(&h), &config).unwrap();
        assert_eq!((ours.report.dead_inputs, ours.report.fallback), (3, None));
        let q = dequantized(&ours.linear);
        for dead in DEAD {
            assert!(q.row(dead).iter().all(|&q| q == 0.0));
        }
        // Large as they were, they do not spoil the scale of their group.
        assert!(ours.report.relative_error < 0.01, "{:?}", ours.report);
    }
    let rotated = Config {
        rotation: Rotation::Block(32),
        ..int4(32)
    };
    let ours = quantize_linear(&weights, Some(&h), &rotated).unwrap();
    assert_eq!(ours.report.dead_inputs, 3);
    assert!(ours.report.relative_error < 0.01, "{:?}", ours.report);
}

#[test]
fn without_a_usable_hessian_weights_are_rounded_to_nearest() {
    let weights = normal(64, 9, 18);
    let nearest = Config {
        solver: Solver::Rtn,
        ..int4(32)
    };
    let expected = quantize_linear(&weights, None, &nearest).unwrap();
    assert_eq!(expected.report.fallback, None);
    let mut nan = second_moment(64, 200, 19);
    nan[(3, 60)] = f32::NAN;
    let mut infinite = second_moment(64, 200, 19);
    infinite[(5, 5)] = f32::INFINITY;
    let zero = DMatrix::zeros(64, 64);
    for (hessian, fallback) in [
        (None, Fallback::Uncalibrated),
        (Some(&nan), Fallback::DegenerateHessian),
        (Some(&infinite), Fallback::DegenerateHessian),
        (Some(&zero), Fallback::DegenerateHessian),
    ] {
        let ours = quantize_linear(&weights, hessian, &int4(32)).unwrap();
        assert_eq!(ours.linear, expected.linear);
        assert_eq!(ours.report.fallback, Some(fallback));
        assert_eq!((ours.report.attempts, ours.report.damping), (0, 0.0));
        assert_eq!(ours.report.relative_error, expected.report.relative_error);
    }
    let identity = DMatrix::identity(64, 64);
    let by_weights = relative_error(&weights, &expected.linear, Some(&identity)).unwrap();
    assert!((by_weights / expected.report.relative_error - 1.0).abs() < 1e-5);
}

#[test]
fn hopeless_hessians_are_reported() {
    let weights = normal(64, 9, 20);
    let mut h = -second_moment(64, 200, 21);
    for i in 0..64 {
        h[(i, i)] = 1e-3;
    }
    let ours = quantize_linear(&weights, Some(&h), &int4(32)).unwrap();
    assert_eq!(ours.report.fallback, Some(Fallback::Indefinite));
}

#[test]
fn singular_hessians_are_damped() {
    // Five tokens cannot span 64 inputs.
    let h = second_moment(64, 5, 22);
    let weights = normal(64, 9, 23);
    let config = Config {
        damping: Damping {
            fraction: 0.0,
            ..Damping::default()
        },
        ..int4(32)
    };
    let ours = quantize_linear(&weights, Some(&h), &config).unwrap();
    assert!(ours.report.attempts > 1 && ours.report.damping > 0.0);
    assert_eq!(ours.report.fallback, None);
    // Errors can hide where no token looks.
    let nearest = Config {
        solver: Solver::Rtn,
        ..config
    };
    let rtn = quantize_linear(&weights, Some(&h), &nearest).unwrap();
    assert!(ours.report.relative_error < 0.05 * rtn.report.relative_error);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (weights, h) = (normal(64, 3, 24), second_moment(64, 200, 25));
    let refusal = |weights: &DMatrix<f32>, h: &DMatrix<f32>, config: &Config| {
        quantize_linear(weights, Some(h), config).unwrap_err()
    };
    for bad in [0, 24, 31, 128] {
        let error = refusal(&weights, &h, &int4(bad));
        assert!(matches!(error, Error::Group { group, in_features: 64, .. } if group == bad));
    }
    for bad in [24, 128] {
        let config = Config {
            rotation: Rotation::Block(bad),
            ..int4(32)
        };
        let error = refusal(&weights, &h, &config);
        assert!(matches!(error, Error::Rotation { block, in_features: 64 } if block == bad));
    }
    let error = refusal(&weights, &h.rows(0, 63).clone_owned(), &int4(32));
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let error = refusal(&DMatrix::zeros(0, 3), &DMatrix::zeros(0, 0), &int4(32));
    assert!(
        matches!(error, Error::Group { in_features: 0, .. }),
        "{error}"
    );
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let mut spoilt = weights.clone();
        spoilt[(17, 2)] = bad;
        let error = refusal(&spoilt, &h, &int4(32));
        let place = Error::NotFinite {
            value: bad,
            input: 17,
            output: 2,
        };
        assert_eq!(error.to_string(), place.to_string());
    }
    let calibration = Calibration::new(Some(&h), 64, &int4(32)).unwrap();
    let error = calibration.quantize(&normal(32, 3, 1)).unwrap_err();
    assert!(matches!(
        error,
        Error::Shape {
            expected: 64,
            found: 32,
            ..
        }
    ));
}

#[test]
fn empty_and_zero_linears_pass() {
    let h = second_moment(64, 200, 26);
    for format in Format::ALL {
        let group = match format.has_free_group() {
            true => 32,
            false => format.default_group(),
        };
        let config = Config {
            group,
            ..Config::new(format)
        };
        let none = quantize_linear(&DMatrix::zeros(64, 0), Some(&h), &config).unwrap();
        assert_eq!(none.linear.out_features(), 0);
        assert_eq!(none.report.relative_error, 0.0);
        let zero = quantize_linear(&DMatrix::zeros(64, 5), Some(&h), &config).unwrap();
        assert_eq!(zero.report.relative_error, 0.0);
        assert!(zero.linear.dequantize().iter().all(|&w| w == 0.0));
    }
}

fn free_format() -> impl Strategy<Value = Format> {
    prop::sample::select(vec![
        Format::Int(IntBits::Two),
        Format::Int(IntBits::Eight),
        Format::Fp4,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_shape_sweeps_as_the_textbook(
        groups in 1..14usize,
        half_group in 1..12usize,
        outputs in 1..40usize,
        format in free_format(),
        symmetric: bool,
        act_order: bool,
        seed: u64,
    ) {
        let n = groups * half_group * 2;
        let weights = normal(n, outputs, seed);
        let h = second_moment(n, 2 * n + 5, seed ^ 1);
        let config = Config { group: 2 * half_group, symmetric, act_order, ..config(format) };
        let ours = quantize_linear(&weights, Some(&h), &config).unwrap();
        let ordered = Ordered::new(&weights, &h, &config, ours.report.damping);
        let theirs = textbook(&ordered, &ours.linear);
        // A tie that falls otherwise changes what follows in its output.
        let equal = share_of_equals(&dequantized(&ours.linear), &theirs);
        prop_assert!(equal > 0.95, "{}", equal);
        let expected = error_by_definition(&weights, &theirs, &h);
        prop_assert!(ours.report.relative_error < 1.05 * expected + 1e-9);
    }
}
