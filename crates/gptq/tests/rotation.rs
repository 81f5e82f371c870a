//! Rotations are chosen by what they do to inputs that nothing was fitted to.
// Helpers outside of test functions are test code too.
#![allow(clippy::unwrap_used)]

use nalgebra::DMatrix;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use treillage_gptq::{
    Calibration, Config, Error, Format, IntBits, Rotation, RotationChoice, ScaleRule,
    choose_rotation, relative_error,
};

const CANDIDATES: [Rotation; 5] = [
    Rotation::Block(128),
    Rotation::None,
    Rotation::Block(16),
    Rotation::Block(32),
    Rotation::Block(64),
];

fn uniform(rows: usize, columns: usize, seed: u64) -> DMatrix<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    DMatrix::from_fn(rows, columns, |_, _| rng.random_range(-1.0..1.0f32))
}

fn second_moment(n: usize, seed: u64) -> DMatrix<f32> {
    let mix = uniform(n, n, 1) + DMatrix::identity(n, n) * 4.0;
    let x = mix * uniform(n, 4 * n, seed);
    &x * x.transpose() / (4 * n) as f32
}

fn config(format: Format) -> Config {
    Config {
        scales: ScaleRule::Minmax,
        ..Config::new(format)
    }
}

#[test]
fn outliers_call_for_a_rotation_and_their_absence_for_none() {
    let (fit, held_out) = (second_moment(128, 2), second_moment(128, 3));
    let int4 = config(Format::Int(IntBits::Four));
    let flat = uniform(128, 300, 4);
    let mut spiky = flat.clone();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for mut output in spiky.column_iter_mut() {
        output[rng.random_range(0..128)] *= 12.0;
    }
    let choose = |weights: &DMatrix<f32>| -> RotationChoice {
        choose_rotation(&[weights], &fit, &held_out, &CANDIDATES, &int4).unwrap()
    };
    let choice = choose(&flat);
    assert_eq!(choice.rotation, Rotation::None, "{choice:?}");
    let choice = choose(&spiky);
    assert_ne!(choice.rotation, Rotation::None, "{choice:?}");
    let tried: Vec<Rotation> = choice
        .errors
        .iter()
        .map(|&(rotation, _)| rotation)
        .collect();
    let mut ascending = CANDIDATES;
    ascending.sort();
    assert_eq!(tried, ascending);
}

#[test]
fn errors_are_those_of_quantizing_with_each() {
    let (fit, held_out) = (second_moment(64, 6), second_moment(64, 7));
    let linears = [uniform(64, 20, 8), uniform(64, 33, 9)];
    let nvfp4 = config(Format::NvFp4);
    let [first, second] = &linears;
    let choice = choose_rotation(&[first, second], &fit, &held_out, &CANDIDATES, &nvfp4).unwrap();
    // 128 does not divide 64.
    assert_eq!(choice.errors.len(), 4);
    let least = choice
        .errors
        .iter()
        .map(|e| e.1)
        .fold(f64::INFINITY, f64::min);
    let mut smallest = None;
    for (rotation, error) in choice.errors {
        let config = Config {
            rotation,
            ..nvfp4.clone()
        };
        let inputs = Calibration::new(Some(&fit), 64, &config).unwrap();
        let sum: f64 = linears
            .iter()
            .map(|w| relative_error(w, &inputs.encode(w).unwrap(), Some(&held_out)).unwrap())
            .sum();
        assert_eq!(sum, error);
        if error <= 1.01 * least {
            smallest = smallest.or(Some(rotation));
        }
    }
    assert_eq!(Some(choice.rotation), smallest);
}

#[test]
fn a_part_of_many_outputs_speaks_for_all() {
    let (fit, held_out) = (second_moment(64, 10), second_moment(64, 11));
    let weights = uniform(64, 1000, 12);
    let mxfp4 = config(Format::MxFp4);
    let choice = choose_rotation(&[&weights], &fit, &held_out, &[Rotation::None], &mxfp4).unwrap();
    let inputs = Calibration::new(Some(&fit), 64, &mxfp4).unwrap();
    let linear = inputs.encode(&weights).unwrap();
    let whole = relative_error(&weights, &linear, Some(&held_out)).unwrap();
    assert!((choice.errors[0].1 / whole - 1.0).abs() < 0.05);
}

#[test]
fn nothing_to_choose_from_is_no_rotation() {
    let h = second_moment(48, 13);
    let weights = uniform(48, 5, 14);
    let config = Config {
        group: 24,
        ..config(Format::Fp4)
    };
    let choice = choose_rotation(&[&weights], &h, &h, &[Rotation::Block(32)], &config).unwrap();
    assert_eq!((choice.rotation, choice.errors.len()), (Rotation::None, 0));
    let error = choose_rotation(&[&weights], &h, &second_moment(32, 1), &CANDIDATES, &config);
    assert!(matches!(error, Err(Error::Shape { .. })));
}
