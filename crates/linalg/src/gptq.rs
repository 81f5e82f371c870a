//! The factor of an inverse Hessian that GPTQ sweeps with, without the inverse.

use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{MatRef, Par};
use nalgebra::DMatrix;

use crate::cholesky::{Order, factorize, faer_mut};
use crate::{Damping, Error};

/// The factor of `(H + damping·I)⁻¹ = Uᵀ U`.
#[derive(Debug, Clone, PartialEq)]
pub struct GptqFactor {
    /// `U`, upper triangular, zero below the diagonal.
    pub upper: DMatrix<f32>,
    /// What was added to the diagonal, in the units of `H`.
    pub damping: f32,
    /// Factorizations it took.
    pub attempts: u32,
}

/// The upper Cholesky factor of the inverse of `h`, a symmetric matrix of which only the lower triangle is read
/// (GPTQ, arXiv 2210.17323, step 3).
///
/// With `J` the reversal of order and `J H J = L Lᵀ`, the matrix `R = J L J` is upper triangular with `H = R Rᵀ`, so `U = R⁻¹`.
/// That is half the work of factorizing, inverting and factorizing again, and the condition number enters once, not twice.
///
/// # Errors
/// As [`cholesky`](crate::cholesky).
pub fn gptq_factor(h: &DMatrix<f32>, damping: Damping) -> Result<GptqFactor, Error> {
    let factor = factorize(h, damping, Order::Reversed)?;
    let n = h.nrows();
    let mut inverse = DMatrix::zeros(n, n);
    invert_lower_triangular(
        faer_mut(&mut inverse),
        MatRef::from_column_major_slice(factor.lower.as_slice(), n, n),
        Par::rayon(0),
    );
    // Reversing rows and columns of a column-major matrix is reversing its memory.
    let upper = inverse.as_slice().iter().rev().map(|&value| value as f32);
    Ok(GptqFactor {
        upper: DMatrix::from_iterator(n, n, upper),
        damping: factor.damping as f32,
        attempts: factor.attempts,
    })
}
