//! Cholesky factorization of a damped symmetric matrix.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::traits::RealField;
use faer::{MatMut, Par};
use nalgebra::{DMatrix, Scalar};

use crate::Error;

/// How much to add to the diagonal before factorizing, and how to go on if that is not enough.
///
/// Attempt `i` adds `fraction · growthⁱ · mean(diag H)` to every diagonal entry. A `fraction` of zero tries the matrix as it
/// is, then goes on from [`Damping::SMALLEST`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Damping {
    /// First damping, as a fraction of the mean of the diagonal.
    pub fraction: f32,
    /// Factor from one attempt to the next.
    pub growth: f32,
    /// Factorizations to try; at least one is always tried.
    pub attempts: u32,
}

impl Damping {
    /// The fraction a retry starts from where the first attempt was undamped.
    pub const SMALLEST: f32 = 1e-6;

    /// Damping that starts at `fraction` and doubles, ten attempts in all.
    pub const fn new(fraction: f32) -> Self {
        Self {
            fraction,
            growth: 2.0,
            attempts: 10,
        }
    }

    /// No damping and no second attempt.
    pub const fn none() -> Self {
        Self {
            fraction: 0.0,
            growth: 1.0,
            attempts: 1,
        }
    }

    pub(crate) fn fraction_at(&self, attempt: u32) -> f64 {
        let growth = f64::from(self.growth);
        match (self.fraction, attempt) {
            (0.0, 0) => 0.0,
            (0.0, later) => f64::from(Self::SMALLEST) * growth.powi(later as i32 - 1),
            (fraction, any) => f64::from(fraction) * growth.powi(any as i32),
        }
    }
}

impl Default for Damping {
    /// 2.5 % of the mean diagonal, what trellis quantization starts from.
    fn default() -> Self {
        Self::new(0.025)
    }
}

/// The factor of `H + damping·I = L Lᵀ`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cholesky {
    /// `L`, lower triangular, zero above the diagonal.
    pub lower: DMatrix<f32>,
    /// What was added to the diagonal, in the units of `H`.
    pub damping: f32,
    /// Factorizations it took.
    pub attempts: u32,
}

/// Factorizes the symmetric matrix `h`, of which only the lower triangle is read, damping it as far as `damping` allows.
///
/// The work is done in f64: it costs twice the time of f32, which is little beside any quantizer, and spares most retries.
/// A matrix whose pivots are lost in rounding counts as not positive definite.
///
/// # Errors
/// [`Error::NotSquare`], [`Error::NonFinite`], [`Error::NoSignal`], and [`Error::NotPositiveDefinite`] when attempts run out.
pub fn cholesky(h: &DMatrix<f32>, damping: Damping) -> Result<Cholesky, Error> {
    let factor = factorize(h, damping)?;
    Ok(Cholesky {
        lower: narrow(&factor.lower),
        damping: factor.damping as f32,
        attempts: factor.attempts,
    })
}

/// A factor still in the precision of the work.
pub(crate) struct Factor {
    /// Lower triangular, zero above the diagonal.
    pub(crate) lower: DMatrix<f64>,
    pub(crate) damping: f64,
    pub(crate) attempts: u32,
}

pub(crate) fn factorize(h: &DMatrix<f32>, damping: Damping) -> Result<Factor, Error> {
    let mean_diagonal = mean_of_valid_diagonal(h)?;
    let mut lower = DMatrix::zeros(h.nrows(), h.nrows());
    let mut absolute = 0.0;
    let attempts = damping.attempts.max(1);
    for attempt in 0..attempts {
        absolute = damping.fraction_at(attempt) * mean_diagonal;
        fill_lower(&mut lower, h, absolute);
        if factorize_in_place(&mut lower) {
            return Ok(Factor {
                lower,
                damping: absolute,
                attempts: attempt + 1,
            });
        }
    }
    Err(Error::NotPositiveDefinite {
        attempts,
        damping: absolute,
    })
}

/// Rounds to f32.
pub(crate) fn narrow(matrix: &DMatrix<f64>) -> DMatrix<f32> {
    matrix.map(|value| value as f32)
}

/// Mean of the diagonal, once the matrix is known to be square, finite in its lower triangle and not empty of signal.
pub(crate) fn mean_of_valid_diagonal(h: &DMatrix<f32>) -> Result<f64, Error> {
    let (rows, columns) = h.shape();
    if rows != columns {
        return Err(Error::NotSquare { rows, columns });
    }
    for column in 0..columns {
        let below = &h.as_slice()[column * rows + column..(column + 1) * rows];
        if let Some(offset) = below.iter().position(|value| !value.is_finite()) {
            return Err(Error::NonFinite {
                row: column + offset,
                column,
                value: below[offset],
            });
        }
    }
    let trace: f64 = (0..rows).map(|i| f64::from(h[(i, i)])).sum();
    let mean_diagonal = trace / rows.max(1) as f64;
    // The smallest normal f32 leaves no digits to damp with.
    if mean_diagonal < f64::from(f32::MIN_POSITIVE) {
        return Err(Error::NoSignal { mean_diagonal });
    }
    Ok(mean_diagonal)
}

/// Writes the lower triangle of `H + damping·I` into `lower`.
fn fill_lower(lower: &mut DMatrix<f64>, h: &DMatrix<f32>, damping: f64) {
    for column in 0..h.nrows() {
        for row in column..h.nrows() {
            lower[(row, column)] = f64::from(h[(row, column)]);
        }
        lower[(column, column)] += damping;
    }
}

/// Replaces the lower triangle by its Cholesky factor and the upper one by zero; false if a pivot is not safely positive.
pub(crate) fn factorize_in_place<T: RealField + Scalar + Copy + Into<f64>>(
    lower: &mut DMatrix<T>,
) -> bool {
    let n = lower.nrows();
    let wide = |value: &T| -> f64 { (*value).into() };
    let largest = lower.diagonal().iter().map(wide).fold(0.0, f64::max);
    let par = Par::rayon(0);
    let mut scratch = MemBuffer::new(cholesky_in_place_scratch::<T>(n, par, Default::default()));
    let factored = cholesky_in_place(
        MatMut::from_column_major_slice_mut(lower.as_mut_slice(), n, n),
        Default::default(),
        par,
        MemStack::new(&mut scratch),
        Default::default(),
    );
    // The factorization keeps scratch values above the diagonal.
    lower.fill_upper_triangle(T::zero_impl(), 1);
    // Rounding alone can leave a pivot of a singular matrix a few n·ε above zero.
    let smallest = n as f64 * T::epsilon_impl().into() * largest;
    factored.is_ok() && (0..n).all(|i| wide(&lower[(i, i)]).powi(2) > smallest)
}
