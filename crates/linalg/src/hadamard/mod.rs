//! Blockwise Walsh–Hadamard transforms.
//!
//! A block of `b` values is multiplied by the Sylvester–Hadamard matrix `H_ij = (−1)^popcount(i & j) / √b`, rows in natural
//! order. It is symmetric and its own inverse, so each function here undoes itself.

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use nalgebra::DMatrix;

/// The sizes of block there are.
pub const BLOCKS: [usize; 4] = [16, 32, 64, 128];

/// Transforms each run of `block` values in place.
///
/// # Panics
/// If `block` is not 16, 32, 64 or 128, or does not divide the length of `row`.
pub fn fwht(row: &mut [f32], block: usize) {
    check(row.len(), block);
    #[cfg(target_arch = "aarch64")]
    if neon::fwht(row, block) {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if x86::fwht(row, block) {
        return;
    }
    portable::fwht(row, block);
}

/// [`fwht`] without instructions chosen at run time: what it falls back on, and what its other paths must equal to the bit.
///
/// # Panics
/// As [`fwht`].
pub fn fwht_portable(row: &mut [f32], block: usize) {
    check(row.len(), block);
    portable::fwht(row, block);
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
        BLOCKS.contains(&block),
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

/// What the paths for single processors are tested with.
#[cfg(test)]
mod paths {
    use super::{BLOCKS, portable};

    /// Compares a path with the portable one, on values of very different size, where another order of sums would show.
    pub(super) fn assert_equals_portable(path: impl Fn(&mut [f32], usize)) {
        let input: Vec<f32> = (0..1280u32)
            .map(|i| i.wrapping_mul(2_654_435_761).cast_signed() as f32 * 2f32.powi(i as i32 % 40))
            .collect();
        let bits =
            |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits()).collect() };
        for block in BLOCKS {
            let (mut fast, mut slow) = (input.clone(), input.clone());
            path(&mut fast, block);
            portable::fwht(&mut slow, block);
            assert_eq!(bits(&fast), bits(&slow), "block {block}");
        }
    }
}
