//! Running second moments against sums by definition.

use crate::common::{on_pools, values, wide};
use half::bf16;
use nalgebra::DMatrix;
use proptest::prelude::*;
use treillage_linalg::{Damping, Error, Hessian, Precision, cholesky};

/// `Σ w x xᵀ / Σ w` in double precision, by definition.
fn mean_by_definition(features: usize, rows: &[f32], weights: &[f32]) -> DMatrix<f64> {
    let mut sum = DMatrix::zeros(features, features);
    for (row, &weight) in rows.chunks_exact(features).zip(weights) {
        for i in 0..features {
            for j in 0..features {
                sum[(i, j)] += f64::from(weight) * f64::from(row[i]) * f64::from(row[j]);
            }
        }
    }
    sum / weights.iter().copied().map(f64::from).sum::<f64>()
}

fn distance(a: &DMatrix<f32>, b: &DMatrix<f64>) -> f64 {
    (wide(a) - b).abs().max()
}

fn seen(features: usize, rows: &[f32]) -> Hessian {
    let mut hessian = Hessian::new(features);
    hessian.update(rows).unwrap();
    hessian
}

#[test]
fn mean_equals_the_definition() {
    for features in [1, 7, 33, 130] {
        let rows = values(900 * features, 1);
        let expected = mean_by_definition(features, &rows, &[1.0; 900]);
        for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::F64, 3e-8)] {
            let mut hessian = Hessian::with_precision(features, precision);
            hessian.update(&rows).unwrap();
            let mean = hessian.mean();
            let error = distance(&mean, &expected);
            assert!(
                error < tolerance,
                "{features} features in {precision:?} off by {error}"
            );
            assert_eq!(mean, mean.transpose());
            assert_eq!(
                (hessian.count(), hessian.dropped(), hessian.features()),
                (900.0, 0, features)
            );
        }
    }
}

#[test]
fn double_precision_keeps_what_single_loses() {
    // Single precision cannot add 1 to 2²⁴.
    let mut hessians =
        [Precision::F32, Precision::F64].map(|precision| Hessian::with_precision(1, precision));
    for hessian in &mut hessians {
        hessian.update(&[4096.0; 2]).unwrap();
        hessian.flush();
        for _ in 0..1024 {
            hessian.update(&[1.0]).unwrap();
            hessian.flush();
        }
    }
    let sums = hessians.map(|hessian| f64::from(hessian.mean()[0]) * hessian.count());
    assert!((sums[0] - 33_554_432.0).abs() < 4.0, "{sums:?}");
    assert!((sums[1] - 33_555_456.0).abs() < 4.0, "{sums:?}");
}

#[test]
fn bf16_counts_as_what_it_stands_for() {
    for (features, precision) in [(70, Precision::F32), (33, Precision::F64)] {
        let mut rows = values(700 * features, 11);
        rows[300 * features + 5] = f32::NAN;
        let narrow: Vec<bf16> = rows.iter().map(|&x| bf16::from_f32(x)).collect();
        let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
        let [mut ours, mut expected] =
            [(); 2].map(|()| Hessian::with_precision(features, precision));
        ours.update_bf16(&narrow).unwrap();
        expected.update(&wide).unwrap();
        assert_eq!((ours.count(), ours.dropped()), (699.0, 1));
        assert_eq!(ours.rows(), expected.rows());
        let distance = distance(&ours.mean(), &self::wide(&expected.mean()));
        assert!(distance < 1e-6, "{distance}");
        let error = ours.update_bf16(&narrow[1..]).unwrap_err();
        assert!(matches!(error, Error::RowLength { .. }));
    }
}

#[test]
fn nothing_seen_is_zero() {
    let mut hessian = Hessian::new(3);
    assert_eq!(hessian.mean(), DMatrix::zeros(3, 3));
    hessian.update(&[]).unwrap();
    hessian.update_weighted(&[1.0, 2.0, 3.0], &[0.0]).unwrap();
    assert_eq!(
        (hessian.mean(), hessian.count()),
        (DMatrix::zeros(3, 3), 0.0)
    );
    assert!(matches!(
        cholesky(&hessian.mean(), Damping::default()),
        Err(Error::NoSignal { .. })
    ));
}

#[test]
fn rows_that_are_not_finite_are_dropped_and_counted() {
    // Both a batch that is gathered and one that is long enough to be multiplied out at once.
    for tokens in [20, 600] {
        let rows = values(tokens * 4, 2);
        let mut spoilt = rows.clone();
        for (place, value) in [(5, f32::NAN), (43, f32::INFINITY), (44, f32::NEG_INFINITY)] {
            spoilt[place] = value;
        }
        let rest: Vec<f32> = [&rows[..4], &rows[8..40], &rows[48..]].concat();
        let hessian = seen(4, &spoilt);
        assert_eq!(
            (hessian.count(), hessian.dropped()),
            ((tokens - 3) as f64, 3)
        );
        assert!(distance(&hessian.mean(), &wide(&seen(4, &rest).mean())) < 1e-6);
    }
}

#[test]
fn weights_count_as_repetitions() {
    let rows = values(3 * 5, 3);
    let mut weighted = Hessian::new(5);
    weighted.update_weighted(&rows, &[2.0, 0.0, 3.0]).unwrap();
    let [first, _, third] = [0, 1, 2].map(|row| &rows[row * 5..row * 5 + 5]);
    let repeated = seen(5, &[first, first, third, third, third].concat());
    assert_eq!((weighted.count(), weighted.rows()), (5.0, 3));
    assert_eq!((repeated.count(), repeated.rows()), (5.0, 5));
    assert!(distance(&weighted.mean(), &wide(&repeated.mean())) < 1e-6);
}

#[test]
fn bad_batches_are_refused_whole() {
    let mut hessian = seen(2, &[1.0, 2.0]);
    let before = hessian.mean();
    assert_eq!(
        hessian.update(&[1.0; 3]),
        Err(Error::RowLength {
            len: 3,
            features: 2
        })
    );
    assert_eq!(
        hessian.update_weighted(&[1.0; 4], &[1.0]),
        Err(Error::WeightCount {
            rows: 2,
            weights: 1
        })
    );
    for weight in [-1.0, f32::INFINITY] {
        assert_eq!(
            hessian.update_weighted(&[1.0; 4], &[1.0, weight]),
            Err(Error::Weight { row: 1, weight })
        );
    }
    assert!(matches!(
        hessian.update_weighted(&[1.0; 2], &[f32::NAN]),
        Err(Error::Weight { row: 0, .. })
    ));
    assert_eq!(
        Hessian::new(0).update(&[1.0]),
        Err(Error::RowLength {
            len: 1,
            features: 0
        })
    );
    assert_eq!((hessian.mean(), hessian.count()), (before, 1.0));
}

#[test]
fn hessians_of_other_inputs_are_refused() {
    let mut hessian = Hessian::new(2);
    let refused = Error::Features { left: 2, right: 3 };
    assert_eq!(hessian.merge(&Hessian::new(3)), Err(refused.clone()));
    assert_eq!(
        hessian.shrink_toward(&Hessian::new(3), 1.0).unwrap_err(),
        refused
    );
    assert_eq!(
        hessian.shrink_toward(&Hessian::new(2), -1.0).unwrap_err(),
        Error::Count { count: -1.0 }
    );
    assert!(matches!(
        Hessian::from_mean(DMatrix::zeros(2, 2), f64::NAN),
        Err(Error::Count { .. })
    ));
    assert!(matches!(
        Hessian::from_mean(DMatrix::zeros(2, 3), 1.0),
        Err(Error::NotSquare {
            rows: 2,
            columns: 3
        })
    ));
}

#[test]
fn precisions_mix() {
    let (left, right) = (values(40 * 6, 4), values(700 * 6, 5));
    let expected = mean_by_definition(6, &[&left[..], &right].concat(), &[1.0; 740]);
    for (a, b) in [
        (Precision::F32, Precision::F64),
        (Precision::F64, Precision::F32),
        (Precision::F64, Precision::F64),
    ] {
        let (mut a, mut b) = (Hessian::with_precision(6, a), Hessian::with_precision(6, b));
        a.update(&left).unwrap();
        b.update(&right).unwrap();
        a.merge(&b).unwrap();
        assert!(distance(&a.mean(), &expected) < 1e-6);
    }
}

#[test]
fn shrinking_is_the_weighted_mean() {
    let (expert, layer) = (seen(8, &values(5 * 8, 6)), seen(8, &values(400 * 8, 7)));
    let shrunk = expert.shrink_toward(&layer, 8.0).unwrap();
    let expected = (wide(&expert.mean()) * 5.0 + wide(&layer.mean()) * 8.0) / 13.0;
    assert!(distance(&shrunk.mean(), &expected) < 1e-6);
    assert_eq!((shrunk.count(), shrunk.rows()), (13.0, 5));
    // Five rows cannot span eight inputs; with the layer's they do.
    assert!(cholesky(&expert.mean(), Damping::none()).is_err());
    assert!(cholesky(&shrunk.mean(), Damping::none()).is_ok());

    assert!(
        distance(
            &expert.shrink_toward(&layer, 0.0).unwrap().mean(),
            &wide(&expert.mean())
        ) < 1e-7
    );
    assert_eq!(
        expert.shrink_toward(&Hessian::new(8), 8.0).unwrap().mean(),
        expert.mean()
    );
    // An expert that saw nothing is as good as its layer.
    let unseen = Hessian::new(8).shrink_toward(&layer, 8.0).unwrap();
    assert!(distance(&unseen.mean(), &wide(&layer.mean())) < 1e-6);
}

#[test]
fn a_stored_mean_goes_on_as_before() {
    let (first, second) = (values(50 * 9, 8), values(30 * 9, 9));
    let mut stored = Hessian::from_mean(seen(9, &first).mean(), 50.0).unwrap();
    stored.update(&second).unwrap();
    let whole = seen(9, &[first, second].concat());
    assert_eq!(stored.count(), whole.count());
    assert!(distance(&stored.mean(), &wide(&whole.mean())) < 1e-6);
}

#[test]
fn threads_do_not_change_a_bit() {
    let rows = values(1000 * 300, 10);
    for precision in [Precision::F32, Precision::F64] {
        let means = on_pools(|| {
            let mut hessian = Hessian::with_precision(300, precision);
            hessian.update(&rows).unwrap();
            hessian.mean()
        });
        assert!(means.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

proptest! {
    #[test]
    fn batches_merges_and_order_do_not_matter(
        features in 1..24usize,
        batches in prop::collection::vec((0..300usize, any::<bool>()), 1..6),
        seed: u64,
    ) {
        let tokens = batches.iter().map(|(batch, _)| batch).sum::<usize>();
        prop_assume!(tokens > 0);
        let rows = values(tokens * features, seed);
        let expected = mean_by_definition(features, &rows, &vec![1.0; tokens]);

        // Each batch goes to one of two Hessians, which are merged.
        let mut halves = [Hessian::new(features), Hessian::new(features)];
        let mut rest = &rows[..];
        for (batch, second) in batches {
            let (now, later) = rest.split_at(batch * features);
            halves[usize::from(second)].update(now).unwrap();
            rest = later;
        }
        let [mut merged, other] = halves;
        merged.merge(&other).unwrap();
        prop_assert_eq!((merged.count(), merged.rows()), (tokens as f64, tokens as u64));
        prop_assert!(distance(&merged.mean(), &expected) < 2e-6);

        let reversed: Vec<f32> = rows.chunks_exact(features).rev().flatten().copied().collect();
        prop_assert!(distance(&seen(features, &reversed).mean(), &expected) < 2e-6);

        // What is still gathered counts as much as what was multiplied out.
        let mean = merged.mean();
        merged.flush();
        prop_assert_eq!(mean, merged.mean());
    }
}
