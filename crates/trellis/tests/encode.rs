//! Whole linears through the encoder, judged by what is stored.

use nalgebra::DMatrix;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use treillage_trellis::{
    Bits, Codebook, EncodeConfig, Encoded, Error, Fallback, OutScales, encode_linear,
};

fn gaussian(rng: &mut ChaCha8Rng) -> f32 {
    // Box–Muller.
    let (a, b): (f64, f64) = (rng.random::<f64>().max(1e-300), rng.random());
    ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
}

/// Weights whose rows differ in size, and the second moment of correlated activations.
fn example(inputs: usize, outputs: usize, seed: u64) -> (DMatrix<f32>, DMatrix<f32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sizes: Vec<f32> = (0..inputs)
        .map(|_| 0.02 * (0.3 * gaussian(&mut rng)).exp())
        .collect();
    let weights = DMatrix::from_fn(inputs, outputs, |row, _| sizes[row] * gaussian(&mut rng));
    let mixing = DMatrix::from_fn(inputs, inputs, |_, _| {
        gaussian(&mut rng) / (inputs as f32).sqrt()
    });
    let spread: Vec<f32> = (0..inputs)
        .map(|_| (0.7 * gaussian(&mut rng)).exp())
        .collect();
    let factor = DMatrix::from_fn(inputs, inputs, |i, j| {
        spread[i] * (mixing[(i, j)] + f32::from(i == j))
    });
    (weights, &factor * factor.transpose())
}

fn bits(k: usize) -> Bits {
    Bits::new(k).expect("tests ask for legal rates")
}

/// `tr(Eᵀ H E) / tr(Wᵀ H W)`, the plain way, in f64.
fn relative_error(weights: &DMatrix<f32>, hessian: &DMatrix<f32>, encoded: &Encoded) -> f64 {
    let h = hessian.map(f64::from);
    let w = weights.map(f64::from);
    let e = &w - encoded.linear.dequantize().map(f64::from);
    (e.transpose() * &h * &e).trace() / (w.transpose() * &h * &w).trace()
}

#[test]
fn feedback_full_scale_and_refit_each_lower_the_true_error() {
    let (weights, hessian) = example(256, 128, 1);
    let error = |hessian_seen: Option<&DMatrix<f32>>, config: &EncodeConfig| {
        let encoded = encode_linear(&weights, hessian_seen, config).unwrap();
        relative_error(&weights, &hessian, &encoded)
    };
    for k in [2, 4] {
        let ours = EncodeConfig::new(bits(k), Codebook::Mul1, 7);
        let original = EncodeConfig::original_recipe(bits(k), Codebook::Mul1, 7);
        let unrefitted = EncodeConfig {
            refit: false,
            ..ours.clone()
        };
        let blind = error(None, &unrefitted);
        let by_signs = error(Some(&hessian), &original);
        let full = error(Some(&hessian), &unrefitted);
        let refitted = error(Some(&hessian), &ours);
        assert!(by_signs < blind, "K = {k}: {by_signs} against {blind}");
        assert!(full < by_signs, "K = {k}: {full} against {by_signs}");
        assert!(refitted < full, "K = {k}: {refitted} against {full}");
    }
}

#[test]
fn the_report_tells_the_true_error() {
    let (weights, hessian) = example(128, 256, 2);
    for codebook in Codebook::ALL {
        let encoded = encode_linear(
            &weights,
            Some(&hessian),
            &EncodeConfig::new(bits(3), codebook, 1),
        )
        .unwrap();
        let truth = relative_error(&weights, &hessian, &encoded);
        assert!((encoded.report.relative_error / truth - 1.0).abs() < 1e-3);
        assert_eq!(encoded.report.fallback, None);
        assert!(encoded.report.damping > 0.0);
    }
}

#[test]
fn without_a_usable_hessian_tiles_are_encoded_alone_and_the_report_says_so() {
    let (weights, _) = example(128, 128, 3);
    let config = EncodeConfig::new(bits(4), Codebook::Mul1, 1);
    let uncalibrated = encode_linear(&weights, None, &config).unwrap();
    assert_eq!(uncalibrated.report.fallback, Some(Fallback::Uncalibrated));
    for useless in [
        DMatrix::zeros(128, 128),
        DMatrix::from_element(128, 128, f32::NAN),
    ] {
        let encoded = encode_linear(&weights, Some(&useless), &config).unwrap();
        assert_eq!(encoded.report.fallback, Some(Fallback::DegenerateHessian));
        assert_eq!(encoded.linear.words(), uncalibrated.linear.words());
        assert_eq!(
            encoded.report.relative_error,
            uncalibrated.report.relative_error
        );
    }
    assert!(uncalibrated.report.relative_error < 0.006);
}

#[test]
fn one_token_suffices_for_a_hessian() {
    let (weights, _) = example(128, 128, 4);
    let token = DMatrix::from_fn(128, 1, |row, _| (row as f32 * 0.37).sin());
    let hessian = &token * token.transpose();
    let encoded = encode_linear(
        &weights,
        Some(&hessian),
        &EncodeConfig::new(bits(2), Codebook::Mul1, 1),
    )
    .unwrap();
    assert_eq!(encoded.report.fallback, None);
    assert!(
        encoded.report.relative_error < 0.01,
        "{}",
        encoded.report.relative_error
    );
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let (weights, hessian) = example(128, 256, 5);
    let encode = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let config = EncodeConfig::new(bits(3), Codebook::Mul1, 9);
        pool.install(|| {
            encode_linear(&weights, Some(&hessian), &config)
                .unwrap()
                .linear
        })
    };
    let (one, three) = (encode(1), encode(3));
    assert_eq!(one.words(), three.words());
    assert_eq!((one.suh(), one.svh()), (three.suh(), three.svh()));
}

#[test]
fn tiny_and_large_weights_keep_their_precision() {
    let (weights, hessian) = example(128, 128, 6);
    let config = EncodeConfig::new(bits(4), Codebook::Mul1, 1);
    let error = |factor: f32| {
        encode_linear(&(&weights * factor), Some(&hessian), &config)
            .unwrap()
            .report
            .relative_error
    };
    let plain = error(1.0);
    for factor in [1e-6, 1e4] {
        assert!((error(factor) / plain - 1.0).abs() < 0.02, "{factor}");
    }
}

#[test]
fn zero_rows_columns_and_matrices_come_back_as_zeros_where_it_counts() {
    let (mut weights, hessian) = example(128, 128, 7);
    weights.column_mut(9).fill(0.0);
    weights.row_mut(17).fill(0.0);
    for out_scales in [OutScales::Always, OutScales::Never] {
        let config = EncodeConfig {
            out_scales,
            ..EncodeConfig::new(bits(4), Codebook::Mul1, 1)
        };
        let encoded = encode_linear(&weights, Some(&hessian), &config).unwrap();
        assert!(
            encoded
                .linear
                .dequantize()
                .column(9)
                .iter()
                .all(|w| *w == 0.0)
        );
        assert!(relative_error(&weights, &hessian, &encoded) < 0.01);
        let nothing = encode_linear(&DMatrix::zeros(128, 128), Some(&hessian), &config).unwrap();
        assert!(nothing.linear.dequantize().iter().all(|w| *w == 0.0));
        assert_eq!(nothing.report.relative_error, 0.0);
    }
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let config = EncodeConfig::new(bits(2), Codebook::Mul1, 1);
    let mut weights = DMatrix::from_element(128, 128, 0.1);
    assert!(matches!(
        encode_linear(&DMatrix::zeros(128, 64), None, &config),
        Err(Error::Shape {
            what: "output features",
            expected: 128,
            found: 64
        })
    ));
    assert!(matches!(
        encode_linear(&weights, Some(&DMatrix::identity(256, 256)), &config),
        Err(Error::Shape {
            what: "rows of the Hessian",
            ..
        })
    ));
    weights[(3, 5)] = f32::NAN;
    let error = encode_linear(&weights, None, &config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the weight from input 3 to output 5 is NaN"
    );
}
