//! Block LDL factorization, the predictor of LDLQ.

use nalgebra::DMatrix;

use crate::cholesky::{factorize, narrow};
use crate::{Damping, Error};

/// The factors of `H + damping·I = L D Lᵀ`, where `L` has identity blocks on its diagonal and `D` is block diagonal.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockLdl {
    /// `L` strictly below its diagonal blocks, zero elsewhere: the feedback matrix of LDLQ.
    pub lower: DMatrix<f32>,
    /// The diagonal blocks of `D`, one below the other in a matrix of `n` rows and `block` columns. A last block smaller
    /// than the others fills its first columns.
    pub diagonal: DMatrix<f32>,
    /// What was added to the diagonal, in the units of `H`.
    pub damping: f32,
    /// Factorizations it took.
    pub attempts: u32,
}

/// Block LDL factorization of the symmetric matrix `h`, of which only the lower triangle is read.
///
/// From `H = C Cᵀ`, block column `b` of `L` is `C_b · C_bb⁻¹` and `D_b = C_bb · C_bbᵀ` (QuIP#, arXiv 2402.04396, block LDLQ).
///
/// # Errors
/// As [`cholesky`](crate::cholesky).
///
/// # Panics
/// If `block` is zero.
pub fn block_ldl(h: &DMatrix<f32>, block: usize, damping: Damping) -> Result<BlockLdl, Error> {
    assert!(block > 0, "a block holds at least one row");
    let mut factor = factorize(h, damping)?;
    let n = h.nrows();
    let mut diagonal = DMatrix::zeros(n, block.min(n));
    for start in (0..n).step_by(block) {
        let width = block.min(n - start);
        let corner = factor
            .lower
            .view((start, start), (width, width))
            .clone_owned();
        diagonal
            .view_mut((start, 0), (width, width))
            .copy_from(&narrow(&(&corner * corner.transpose())));
        let columns = factor.lower.as_mut_slice();
        divide_by_corner(
            &mut columns[start * n..(start + width) * n],
            &corner,
            start + width,
        );
    }
    Ok(BlockLdl {
        lower: narrow(&factor.lower),
        diagonal,
        damping: factor.damping as f32,
        attempts: factor.attempts,
    })
}

/// Replaces the columns `C` by `C · corner⁻¹` from row `first` on and by zero above it.
fn divide_by_corner(columns: &mut [f64], corner: &DMatrix<f64>, first: usize) {
    let width = corner.nrows();
    let n = columns.len() / width;
    // X·corner = C, last column first: X_j = (C_j − Σ_{m>j} X_m corner_mj) / corner_jj.
    for j in (0..width).rev() {
        let (head, solved) = columns.split_at_mut((j + 1) * n);
        let target = &mut head[j * n..];
        target[..first].fill(0.0);
        let target = &mut target[first..];
        for (m, x) in (j + 1..width).zip(solved.chunks_exact(n)) {
            let factor = corner[(m, j)];
            for (t, x) in target.iter_mut().zip(&x[first..]) {
                *t -= x * factor;
            }
        }
        let pivot = corner[(j, j)];
        target.iter_mut().for_each(|t| *t /= pivot);
    }
}
