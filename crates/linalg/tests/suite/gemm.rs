//! Products of windows against products by definition.

use crate::common::{matrix, on_pools, wide};
use nalgebra::DMatrix;
use proptest::prelude::*;
use treillage_linalg::{Parallelism, View, ViewMut, gemm};

fn any_parallelism() -> impl Strategy<Value = Parallelism> {
    prop::sample::select(&[Parallelism::Sequential, Parallelism::Rayon][..])
}

proptest! {
    #[test]
    fn windows_equal_the_definition(
        (m, k, n) in (1..40usize, 1..40usize, 1..40usize),
        (row, column) in (0..5usize, 0..5usize),
        alpha in -2.0..2.0f32,
        beta in prop::sample::select(&[0.0f32, 1.0, -0.5][..]),
        transposed: bool,
        parallelism in any_parallelism(),
        seed: u64,
    ) {
        let (rows, columns) = if transposed { (k, m) } else { (m, k) };
        let a = matrix(rows + row + 2, columns + column + 3, seed);
        let b = matrix(k + column, n + row, seed ^ 1);
        let mut c = matrix(m + row + 1, n + column, seed ^ 2);

        let window = wide(&a).view((row, column), (rows, columns)).clone_owned();
        let left = if transposed { window.transpose() } else { window };
        let mut expected = wide(&c);
        let product = left * wide(&b).view((column, row), (k, n)) * f64::from(alpha);
        let mut target = expected.view_mut((row, column), (m, n));
        target *= f64::from(beta);
        target += product;

        let left = View::from(&a).window(row..row + rows, column..column + columns);
        gemm(
            alpha,
            if transposed { left.transpose() } else { left },
            View::from(&b).window(column..column + k, row..row + n),
            beta,
            ViewMut::from(&mut c).window(row..row + m, column..column + n),
            parallelism,
        );
        let error = (wide(&c) - expected).abs().max();
        prop_assert!(error < 1e-4, "off by {error}");
    }

    #[test]
    fn row_major_is_the_transpose(m in 1..20usize, k in 1..20usize, n in 1..20usize, seed: u64) {
        let (x, w) = (matrix(k, m, seed), matrix(k, n, seed ^ 1));
        let mut columns = DMatrix::zeros(n, m);
        gemm(1.0, View::from(&w).transpose(), &x, 0.0, &mut columns, Parallelism::Sequential);
        // The same memory read as activations [m, k] times the weight gives activations [m, n].
        let mut rows = vec![0.0; m * n];
        let activations = View::row_major(x.as_slice(), m, k);
        gemm(1.0, activations, &w, 0.0, ViewMut::row_major(&mut rows, m, n), Parallelism::Sequential);
        for (a, b) in rows.iter().zip(columns.as_slice()) {
            prop_assert!((a - b).abs() < 1e-5);
        }
    }
}

#[test]
fn zero_beta_does_not_read_the_old_values() {
    let (a, b) = (matrix(3, 4, 1), matrix(4, 5, 2));
    let mut c = DMatrix::from_element(3, 5, f32::NAN);
    gemm(1.0, &a, &b, 0.0, &mut c, Parallelism::Sequential);
    assert!((wide(&c) - wide(&a) * wide(&b)).abs().max() < 1e-6);
}

#[test]
fn empty_products_are_zero() {
    let mut c = DMatrix::from_element(3, 2, 7.0);
    gemm(
        1.0,
        &DMatrix::zeros(3, 0),
        &DMatrix::zeros(0, 2),
        1.0,
        &mut c,
        Parallelism::Sequential,
    );
    assert_eq!(c, DMatrix::from_element(3, 2, 7.0));
    gemm(
        1.0,
        &DMatrix::zeros(3, 0),
        &DMatrix::zeros(0, 2),
        0.0,
        &mut c,
        Parallelism::Sequential,
    );
    assert_eq!(c, DMatrix::zeros(3, 2));
}

#[test]
fn views_tell_their_shape() {
    let mut w = matrix(5, 7, 1);
    assert_eq!(
        View::from(&w).transpose().window(1..4, 2..5).shape(),
        (3, 3)
    );
    assert_eq!(
        ViewMut::from(&mut w).transpose().window(1..7, 0..5).shape(),
        (6, 5)
    );
}

#[test]
fn threads_do_not_change_a_bit() {
    let (a, b) = (matrix(300, 700, 1), matrix(300, 500, 2));
    let product = |parallelism| {
        let mut c = DMatrix::zeros(700, 500);
        gemm(
            1.0,
            View::from(&a).transpose(),
            &b,
            0.0,
            &mut c,
            parallelism,
        );
        c
    };
    let sequential = product(Parallelism::Sequential);
    for parallel in on_pools(|| product(Parallelism::Rayon)) {
        assert!(parallel == sequential);
    }
}
