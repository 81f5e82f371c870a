//! Blockwise Walsh–Hadamard transforms.
//!
//! A block of `b` values is multiplied by the Sylvester–Hadamard matrix `H_ij = (−1)^popcount(i & j) / √b`, rows in natural
//! order. It is symmetric and its own inverse, so each function here undoes itself.

mod portable;

use nalgebra::DMatrix;

/// Transforms each run of `block` values in place.
///
/// # Panics
/// If `block` is not 16, 32, 64 or 128, or does not divide the length of `row`.
pub fn fwht(row: &mut [f32], block: usize) {
    check(row.len(), block);
    match block {
        16 => portable::fwht::<16>(row),
        32 => portable::fwht::<32>(row),
        64 => portable::fwht::<64>(row),
        _ => portable::fwht::<128>(row),
    }
}

/// `W ← H·W`, with `H` block diagonal: transforms along each column.
///
/// # Panics
/// If `block` is not 16, 32, 64 or 128, or does not divide the number of rows.
pub fn rotate_rows(matrix: &mut DMatrix<f32>, block: usize) {
    check(matrix.nrows(), block);
    // Columns are contiguous and hold whole blocks, so all of them together are one row of blocks.
    fwht(matrix.as_mut_slice(), block);
}

/// `W ← W·H`, with `H` block diagonal: transforms along each row.
///
/// # Panics
/// If `block` is not 16, 32, 64 or 128, or does not divide the number of columns.
pub fn rotate_columns(matrix: &mut DMatrix<f32>, block: usize) {
    check(matrix.ncols(), block);
    let rows = matrix.nrows();
    if rows > 0 {
        for columns in matrix.as_mut_slice().chunks_exact_mut(block * rows) {
            portable::mix_columns(columns, rows, block);
        }
    }
}

/// `W ← H·W·H`, with `H` block diagonal: how a Hessian follows a rotation of its inputs.
///
/// # Panics
/// If `block` is not 16, 32, 64 or 128, or does not divide both dimensions.
pub fn rotate_both(matrix: &mut DMatrix<f32>, block: usize) {
    rotate_rows(matrix, block);
    rotate_columns(matrix, block);
}

/// The transform of one block as a dense matrix: the slow and obvious twin of [`fwht`].
///
/// # Panics
/// If `block` is not 16, 32, 64 or 128.
pub fn dense(block: usize) -> DMatrix<f32> {
    check(0, block);
    let scale = scale(block);
    DMatrix::from_fn(block, block, |i, j| {
        if (i & j).count_ones() % 2 == 0 {
            scale
        } else {
            -scale
        }
    })
}

fn check(len: usize, block: usize) {
    assert!(
        matches!(block, 16 | 32 | 64 | 128),
        "a Hadamard block holds 16, 32, 64 or 128 values, not {block}"
    );
    assert!(
        len.is_multiple_of(block),
        "{len} values are not whole Hadamard blocks of {block}"
    );
}

/// What makes the transform of a block orthonormal.
fn scale(block: usize) -> f32 {
    (1.0 / (block as f64).sqrt()) as f32
}
