//! Transforms against dense Hadamard matrices.

use std::panic::catch_unwind;

use crate::common::{matrix, values, wide};
use nalgebra::{DMatrix, DVector};
use proptest::prelude::*;
use treillage_linalg::hadamard::{self, BLOCKS};

fn any_block() -> impl Strategy<Value = usize> {
    prop::sample::select(&BLOCKS[..])
}

/// The block diagonal matrix of `count` transforms.
fn block_diagonal(block: usize, count: usize) -> DMatrix<f64> {
    DMatrix::identity(count, count).kronecker(&wide(&hadamard::dense(block)))
}

fn assert_close(actual: &DMatrix<f32>, expected: &DMatrix<f64>) {
    let error = (wide(actual) - expected).abs().max();
    assert!(error < 1e-5, "off by {error}");
}

#[test]
fn dense_is_sylvesters() {
    for block in BLOCKS {
        let mut sylvester = DMatrix::from_element(1, 1, 1.0);
        while sylvester.nrows() < block {
            sylvester = DMatrix::from_row_slice(2, 2, &[1.0, 1.0, 1.0, -1.0]).kronecker(&sylvester);
        }
        assert_close(
            &hadamard::dense(block),
            &(sylvester / (block as f64).sqrt()),
        );
    }
}

#[test]
fn vectors_equal_dense_products() {
    for block in BLOCKS {
        let row = values(5 * block, 1);
        let expected = block_diagonal(block, 5)
            * DVector::from_iterator(5 * block, row.iter().copied().map(f64::from));
        for transform in [hadamard::fwht, hadamard::fwht_portable] {
            let mut actual = row.clone();
            transform(&mut actual, block);
            assert_close(
                &DMatrix::from_vec(5 * block, 1, actual),
                &DMatrix::from_column_slice(5 * block, 1, expected.as_slice()),
            );
        }
    }
}

#[test]
fn matrices_equal_dense_products() {
    for block in BLOCKS {
        let h = block_diagonal(block, 2);
        // 71 is no multiple of anything that a kernel works by.
        for other in [1, 71, 128] {
            let w = matrix(2 * block, other, 2);
            let mut rotated = w.clone();
            hadamard::rotate_rows(&mut rotated, block);
            assert_close(&rotated, &(&h * wide(&w)));

            let w = w.transpose();
            let mut rotated = w.clone();
            hadamard::rotate_columns(&mut rotated, block);
            assert_close(&rotated, &(wide(&w) * &h));
        }
        let w = matrix(2 * block, 2 * block, 3);
        let mut rotated = w.clone();
        hadamard::rotate_both(&mut rotated, block);
        assert_close(&rotated, &(&h * wide(&w) * &h));
    }
}

#[test]
fn nothing_to_transform_is_no_error() {
    hadamard::fwht(&mut [], 128);
    for (rows, columns) in [(0, 0), (128, 0), (0, 128)] {
        hadamard::rotate_both(&mut DMatrix::zeros(rows, columns), 128);
    }
}

#[test]
fn misuse_panics_with_its_reason() {
    for (len, block, reason) in [
        (
            128,
            0,
            "a Hadamard block holds 16, 32, 64 or 128 values, not 0",
        ),
        (
            128,
            8,
            "a Hadamard block holds 16, 32, 64 or 128 values, not 8",
        ),
        (100, 32, "100 values are not whole Hadamard blocks of 32"),
    ] {
        let panic = catch_unwind(|| hadamard::fwht(&mut vec![0.0; len], block)).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), reason);
    }
}

proptest! {
    #[test]
    fn twice_is_the_identity(block in any_block(), blocks in 1..20usize, seed: u64) {
        let row = values(block * blocks, seed);
        let mut twice = row.clone();
        hadamard::fwht(&mut twice, block);
        hadamard::fwht(&mut twice, block);
        for (a, b) in twice.iter().zip(&row) {
            prop_assert!((a - b).abs() < 1e-6, "{a} is not {b}");
        }
    }

    #[test]
    fn length_is_kept(block in any_block(), blocks in 1..20usize, seed: u64) {
        let row = values(block * blocks, seed);
        let mut rotated = row.clone();
        hadamard::fwht(&mut rotated, block);
        let length = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        prop_assert!((length(&rotated) / length(&row) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn columns_rotate_as_the_rows_of_the_transpose(block in any_block(), blocks in 1..3usize, rows in 1..140usize, seed: u64) {
        let w = matrix(rows, block * blocks, seed);
        let mut columns = w.clone();
        hadamard::rotate_columns(&mut columns, block);
        let mut transposed = w.transpose();
        hadamard::rotate_rows(&mut transposed, block);
        prop_assert_eq!(columns, transposed.transpose());
    }
}
