//! The factor that GPTQ sweeps with, without an inverse.

use std::{mem, ops::AddAssign};

use nalgebra::{DMatrix, Scalar};
use rayon::prelude::*;

use crate::cholesky::{factorize_in_place, mean_of_valid_diagonal};
use crate::{Damping, Error};

/// The factor of `H + damping·I = V Vᵀ`.
#[derive(Debug, Clone, PartialEq)]
pub struct GptqFactor {
    /// `V`, upper triangular, zero below the diagonal.
    pub upper: DMatrix<f32>,
    /// What was added to the diagonal, in the units of `H`.
    pub damping: f32,
    /// Dampings it took.
    pub attempts: u32,
}

/// The upper factor of the symmetric matrix `h`, of which both triangles are read, with its inputs in the given order: input
/// `i` of the factor is input `order[i]` of `h`. Without an order they stay as they are.
///
/// GPTQ (arXiv 2210.17323, step 3) asks for the upper Cholesky factor `U` of `(H + damping·I)⁻¹ = Uᵀ U`. With `J` the reversal of
/// order and `J (H + damping·I) J = L Lᵀ`, the matrix `V = J L J` is upper triangular, `H + damping·I = V Vᵀ`, and `V⁻¹ = U`.
/// A sweep that pulls, `t_i = w_i + Σ_{j<i} (w_j − q_j) V_ji / V_ii`, needs `V` and not `U`, so that nothing is inverted.
///
/// The work is done in f32, and again in f64 where pivots get lost in rounding, before the damping grows.
///
/// # Errors
/// As [`cholesky`](crate::cholesky).
///
/// # Panics
/// If `order` is no permutation of the inputs.
pub fn gptq_factor(
    h: &DMatrix<f32>,
    order: Option<&[usize]>,
    damping: Damping,
) -> Result<GptqFactor, Error> {
    let mean_diagonal = mean_of_valid_diagonal(h)?;
    let n = h.nrows();
    let natural: Vec<usize>;
    let order = match order {
        Some(order) => {
            check_permutation(order, n);
            order
        }
        None => {
            natural = (0..n).collect();
            &natural
        }
    };
    let mut absolute = 0.0;
    let attempts = damping.attempts.max(1);
    for attempt in 0..attempts {
        absolute = damping.fraction_at(attempt) * mean_diagonal;
        let mut reversed = gather_reversed(h, order, absolute as f32);
        if !factorize_in_place(&mut reversed) {
            let mut wide = gather_reversed(h, order, absolute);
            if !factorize_in_place(&mut wide) {
                continue;
            }
            reversed = wide.map(|value| value as f32);
        }
        // Reversing rows and columns of a column-major matrix is reversing its memory.
        reversed.as_mut_slice().reverse();
        return Ok(GptqFactor {
            upper: reversed,
            damping: absolute as f32,
            attempts: attempt + 1,
        });
    }
    Err(Error::NotPositiveDefinite {
        attempts,
        damping: absolute,
    })
}

fn check_permutation(order: &[usize], n: usize) {
    let mut seen = vec![false; n];
    let fits = order.len() == n
        && order
            .iter()
            .all(|&i| i < n && !mem::replace(&mut seen[i], true));
    assert!(fits, "the order is no permutation of {n} inputs");
}

/// The lower triangle of `J (H + damping·I) J`, with the inputs of `H` in the given order.
fn gather_reversed<T: Scalar + Copy + From<f32> + Send + Sync + AddAssign>(
    h: &DMatrix<f32>,
    order: &[usize],
    damping: T,
) -> DMatrix<T> {
    let n = order.len();
    let mut lower = DMatrix::from_element(n, n, T::from(0.0));
    (lower.as_mut_slice().par_chunks_exact_mut(n))
        .zip(order.par_iter().rev())
        .enumerate()
        .for_each(|(column, (to, &input))| {
            let from = &h.as_slice()[input * n..][..n];
            // Row r of the reversed order is input order[n − 1 − r].
            let inputs = order[..n - column].iter().rev();
            for (value, &row) in to[column..].iter_mut().zip(inputs) {
                *value = T::from(from[row]);
            }
            to[column] += damping;
        });
    lower
}
