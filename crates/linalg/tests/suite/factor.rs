//! Factorizations against nalgebra's own, and against what they promise.

use crate::common::{matrix, on_pools, wide};
use nalgebra::{DMatrix, DVector};
use proptest::prelude::*;
use treillage_linalg::{BlockLdl, Damping, Error, block_ldl, cholesky, gptq_factor};

/// A second moment of `tokens` rows over `n` inputs, singular if there are fewer rows than inputs.
fn second_moment(n: usize, tokens: usize, seed: u64) -> DMatrix<f32> {
    let x = matrix(tokens, n, seed);
    (x.transpose() * &x) / tokens as f32
}

/// A symmetric matrix with the given eigenvalues.
fn with_spectrum(eigenvalues: &[f64], seed: u64) -> DMatrix<f32> {
    let n = eigenvalues.len();
    let q = wide(&matrix(n, n, seed)).qr().q();
    let h = &q * DMatrix::from_diagonal(&DVector::from_column_slice(eigenvalues)) * q.transpose();
    h.map(|value| value as f32)
}

/// `H + damping·I` as a whole, from its lower triangle.
fn damped(h: &DMatrix<f32>, damping: f32) -> DMatrix<f64> {
    let mut whole = wide(h);
    whole.fill_upper_triangle_with_lower_triangle();
    whole + DMatrix::identity(h.nrows(), h.nrows()) * f64::from(damping)
}

fn distance(a: &DMatrix<f64>, b: &DMatrix<f64>) -> f64 {
    (a - b).abs().max()
}

/// `L` with its identity blocks, and `D`.
fn whole(ldl: &BlockLdl, block: usize) -> (DMatrix<f64>, DMatrix<f64>) {
    let n = ldl.lower.nrows();
    let mut d = DMatrix::zeros(n, n);
    for start in (0..n).step_by(block) {
        let width = block.min(n - start);
        d.view_mut((start, start), (width, width))
            .copy_from(&wide(&ldl.diagonal).view((start, 0), (width, width)));
    }
    (wide(&ldl.lower) + DMatrix::identity(n, n), d)
}

#[test]
fn cholesky_equals_nalgebra() {
    for n in [1, 2, 17, 64, 130, 257] {
        let h = second_moment(n, 2 * n + 3, 1);
        let ours = cholesky(&h, Damping::new(0.01)).unwrap();
        let theirs = damped(&h, ours.damping).cholesky().unwrap().l();
        assert!(distance(&wide(&ours.lower), &theirs) < 1e-6);
        assert_eq!(ours.attempts, 1);
        let mean = h.diagonal().mean();
        assert!(
            (ours.damping / mean - 0.01).abs() < 1e-5,
            "{} of {mean}",
            ours.damping
        );
    }
}

#[test]
fn gptq_factor_equals_inverting_and_factorizing_again() {
    for n in [1, 2, 17, 64, 130, 257] {
        let h = second_moment(n, 2 * n + 3, 2);
        let ours = gptq_factor(&h, None, Damping::new(0.01)).unwrap();
        let inverse = damped(&h, ours.damping).try_inverse().unwrap();
        let theirs = inverse.cholesky().unwrap().l().transpose();
        let upper = wide(&ours.upper).try_inverse().unwrap();
        let error = distance(&upper, &theirs) / theirs.abs().max();
        assert!(error < 3e-6, "n = {n}, off by {error}");
    }
}

#[test]
fn only_the_lower_triangle_is_read() {
    let h = second_moment(40, 90, 3);
    let mut lower = h.clone();
    lower.fill_upper_triangle(f32::NAN, 1);
    let damping = Damping::default();
    assert_eq!(cholesky(&lower, damping), cholesky(&h, damping));
    assert_eq!(block_ldl(&lower, 16, damping), block_ldl(&h, 16, damping));
}

#[test]
fn ldl_does_not_depend_on_the_scale_of_the_hessian() {
    // 1e-12 is the order of a second moment after an early norm, 1e12 far beyond any.
    let h = second_moment(64, 200, 4);
    let expected = block_ldl(&h, 16, Damping::default()).unwrap();
    for scale in [1e-12, 1e12] {
        let scaled = block_ldl(&(&h * scale), 16, Damping::default()).unwrap();
        assert!(distance(&wide(&scaled.lower), &wide(&expected.lower)) < 1e-5);
    }
}

#[test]
fn singular_hessians_need_damping_and_report_it() {
    let h = second_moment(96, 5, 5);
    for attempt in [
        cholesky(&h, Damping::none()).map(|_| ()),
        block_ldl(&h, 16, Damping::none()).map(|_| ()),
        gptq_factor(&h, None, Damping::none()).map(|_| ()),
    ] {
        assert_eq!(
            attempt,
            Err(Error::NotPositiveDefinite {
                attempts: 1,
                damping: 0.0
            })
        );
    }
    let ldl = block_ldl(&h, 16, Damping::default()).unwrap();
    let (l, d) = whole(&ldl, 16);
    assert!(distance(&(&l * d * l.transpose()), &damped(&h, ldl.damping)) < 1e-6);
    // Asked to start undamped, it goes on from the smallest fraction.
    let escalated = cholesky(
        &h,
        Damping {
            fraction: 0.0,
            ..Damping::default()
        },
    )
    .unwrap();
    assert!(escalated.attempts > 1);
    assert!(escalated.damping > 0.0 && escalated.damping < 1e-3 * h.diagonal().mean());
}

#[test]
fn inputs_that_were_never_active_are_damped() {
    let mut h = second_moment(48, 100, 6);
    for dead in [0, 17, 47] {
        h.row_mut(dead).fill(0.0);
        h.column_mut(dead).fill(0.0);
    }
    assert!(cholesky(&h, Damping::none()).is_err());
    let factor = cholesky(&h, Damping::default()).unwrap();
    assert!((factor.lower[(17, 17)].powi(2) - factor.damping).abs() < 1e-6);
    let ldl = block_ldl(&h, 16, Damping::default()).unwrap();
    // Nothing is predicted from or for an input that is never active.
    assert!(
        ldl.lower
            .row(17)
            .iter()
            .chain(&ldl.lower.column(17))
            .all(|&x| x == 0.0)
    );
}

#[test]
fn damping_grows_until_the_matrix_is_positive_definite() {
    let mut spectrum = [1.0; 40];
    spectrum[7] = -0.15;
    let h = with_spectrum(&spectrum, 7);
    let mean = h.diagonal().mean();
    // 0.025, 0.05, 0.1, 0.2 of the mean: the last is the first to lift −0.15 above zero.
    let factor = cholesky(&h, Damping::default()).unwrap();
    assert_eq!(factor.attempts, 4);
    assert!((factor.damping / mean - 0.2).abs() < 1e-5);
    assert!(
        distance(
            &(wide(&factor.lower) * wide(&factor.lower).transpose()),
            &damped(&h, factor.damping)
        ) < 1e-6
    );

    let error = cholesky(
        &h,
        Damping {
            attempts: 3,
            ..Damping::default()
        },
    )
    .unwrap_err();
    let Error::NotPositiveDefinite {
        attempts: 3,
        damping,
    } = error
    else {
        panic!("{error}")
    };
    assert!((damping / f64::from(mean) - 0.1).abs() < 1e-5);
}

#[test]
fn ill_conditioned_hessians_keep_their_digits() {
    // A condition of 1e6: single precision would lose all but one digit of what is smallest.
    let spectrum: Vec<f64> = (0..128)
        .map(|i| 10f64.powf(-6.0 * f64::from(i) / 127.0))
        .collect();
    let h = with_spectrum(&spectrum, 8);
    let factor = gptq_factor(&h, None, Damping::none()).unwrap();
    let upper = wide(&factor.upper).try_inverse().unwrap();
    assert!(
        distance(
            &(upper.transpose() * &upper * damped(&h, 0.0)),
            &DMatrix::identity(128, 128)
        ) < 1e-2
    );
    let ldl = block_ldl(&h, 16, Damping::none()).unwrap();
    let (l, d) = whole(&ldl, 16);
    assert!(distance(&(&l * d * l.transpose()), &damped(&h, 0.0)) < 1e-6);
}

#[test]
fn what_cannot_be_factorized_is_named() {
    let damping = Damping::default();
    assert_eq!(
        cholesky(&DMatrix::zeros(2, 3), damping),
        Err(Error::NotSquare {
            rows: 2,
            columns: 3
        })
    );
    assert_eq!(
        block_ldl(&DMatrix::zeros(4, 4), 16, damping),
        Err(Error::NoSignal { mean_diagonal: 0.0 })
    );
    assert!(matches!(
        gptq_factor(&DMatrix::zeros(0, 0), None, damping),
        Err(Error::NoSignal { .. })
    ));
    let negative = -DMatrix::<f32>::identity(3, 3);
    assert_eq!(
        cholesky(&negative, damping),
        Err(Error::NoSignal {
            mean_diagonal: -1.0
        })
    );

    let mut h = second_moment(20, 50, 9);
    h[(13, 4)] = f32::INFINITY;
    let expected = Error::NonFinite {
        row: 13,
        column: 4,
        value: f32::INFINITY,
    };
    assert_eq!(cholesky(&h, damping), Err(expected.clone()));
    assert_eq!(
        expected.to_string(),
        "the matrix holds inf at row 13, column 4"
    );
}

#[test]
fn threads_do_not_change_a_bit() {
    let h = second_moment(400, 900, 10);
    let factors = on_pools(|| {
        let damping = Damping::default();
        (
            cholesky(&h, damping).unwrap(),
            block_ldl(&h, 16, damping).unwrap(),
            gptq_factor(&h, None, damping).unwrap(),
        )
    });
    assert!(factors.windows(2).all(|pair| pair[0] == pair[1]));
}

proptest! {
    #[test]
    fn ldl_multiplies_back(n in 1..90usize, block in 1..40usize, seed: u64) {
        let h = second_moment(n, 2 * n, seed);
        let ldl = block_ldl(&h, block, Damping::default()).unwrap();
        for column in 0..n {
            let first_below = (column / block + 1) * block;
            prop_assert!((0..first_below.min(n)).all(|row| ldl.lower[(row, column)] == 0.0));
        }
        let (l, d) = whole(&ldl, block);
        prop_assert!(distance(&(&l * d * l.transpose()), &damped(&h, ldl.damping)) < 1e-6);
    }

    #[test]
    fn gptq_factor_multiplies_back(n in 1..90usize, seed: u64) {
        let h = second_moment(n, 2 * n, seed);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|&i| (i * 7919) ^ seed as usize);
        let factor = gptq_factor(&h, Some(&order), Damping::default()).unwrap();
        prop_assert_eq!(&factor.upper, &factor.upper.upper_triangle());
        let upper = wide(&factor.upper);
        let damped = damped(&h, factor.damping);
        let ordered = DMatrix::from_fn(n, n, |i, j| damped[(order[i], order[j])]);
        prop_assert!(distance(&(&upper * upper.transpose()), &ordered) < 1e-6);
    }
}
