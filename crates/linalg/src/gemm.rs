//! Matrix products over windows of matrices.

use std::ops::Range;

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par, Scale};
use nalgebra::DMatrix;

use crate::hessian::mirrored;

/// A matrix to read: the whole or a window of an nalgebra matrix or of a slice. Copying and transposing it is free.
#[derive(Debug, Clone, Copy)]
pub struct View<'a>(MatRef<'a, f32>);

/// A matrix to write, see [`View`].
#[derive(Debug)]
pub struct ViewMut<'a>(MatMut<'a, f32>);

/// Where the work of a product runs. The result is the same to the bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Parallelism {
    /// On the calling thread, for callers that are parallel themselves.
    #[default]
    Sequential,
    /// On the threads of the current rayon pool.
    Rayon,
}

impl<'a> View<'a> {
    /// A `rows`×`columns` matrix stored column after column.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows · columns` values.
    pub fn column_major(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self(MatRef::from_column_major_slice(data, rows, columns))
    }

    /// A `rows`×`columns` matrix stored row after row, such as activations.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows · columns` values.
    pub fn row_major(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self(MatRef::from_row_major_slice(data, rows, columns))
    }

    /// The same values with rows and columns exchanged.
    pub fn transpose(self) -> Self {
        Self(self.0.transpose())
    }

    /// The part at the given rows and columns.
    ///
    /// # Panics
    /// If it reaches beyond the matrix.
    pub fn window(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        Self(
            self.0
                .submatrix(rows.start, columns.start, rows.len(), columns.len()),
        )
    }

    /// Number of rows and of columns.
    pub fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }
}

impl<'a> From<&'a DMatrix<f32>> for View<'a> {
    fn from(matrix: &'a DMatrix<f32>) -> Self {
        Self::column_major(matrix.as_slice(), matrix.nrows(), matrix.ncols())
    }
}

impl<'a> ViewMut<'a> {
    /// A `rows`×`columns` matrix stored column after column.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows · columns` values.
    pub fn column_major(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self(MatMut::from_column_major_slice_mut(data, rows, columns))
    }

    /// A `rows`×`columns` matrix stored row after row, such as activations.
    ///
    /// # Panics
    /// If `data` does not hold exactly `rows · columns` values.
    pub fn row_major(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self(MatMut::from_row_major_slice_mut(data, rows, columns))
    }

    /// The same values with rows and columns exchanged.
    pub fn transpose(self) -> Self {
        Self(self.0.transpose_mut())
    }

    /// The part at the given rows and columns.
    ///
    /// # Panics
    /// If it reaches beyond the matrix.
    pub fn window(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        Self(
            self.0
                .submatrix_mut(rows.start, columns.start, rows.len(), columns.len()),
        )
    }

    /// Number of rows and of columns.
    pub fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }
}

impl<'a> From<&'a mut DMatrix<f32>> for ViewMut<'a> {
    fn from(matrix: &'a mut DMatrix<f32>) -> Self {
        let (rows, columns) = matrix.shape();
        Self::column_major(matrix.as_mut_slice(), rows, columns)
    }
}

/// `c ← alpha·a·b + beta·c`. With `beta` zero the old values of `c` are not read.
///
/// ```
/// use treillage_linalg::{Parallelism, View, gemm};
/// use nalgebra::DMatrix;
///
/// // c = aᵀ·b over the last two rows of both.
/// let a = DMatrix::from_fn(3, 2, |row, column| (row + column) as f32);
/// let b = DMatrix::from_element(3, 1, 1.0);
/// let mut c = DMatrix::zeros(2, 1);
/// let window = View::from(&a).window(1..3, 0..2);
/// gemm(1.0, window.transpose(), View::from(&b).window(1..3, 0..1), 0.0, &mut c, Parallelism::Sequential);
/// assert_eq!(c.as_slice(), [3.0, 5.0]);
/// ```
///
/// # Panics
/// If the shapes do not fit.
pub fn gemm<'a>(
    alpha: f32,
    a: impl Into<View<'a>>,
    b: impl Into<View<'a>>,
    beta: f32,
    c: impl Into<ViewMut<'a>>,
    parallelism: Parallelism,
) {
    let mut c = c.into().0;
    if beta != 0.0 && beta != 1.0 {
        c *= Scale(beta);
    }
    let accumulate = if beta == 0.0 {
        Accum::Replace
    } else {
        Accum::Add
    };
    let par = match parallelism {
        Parallelism::Sequential => Par::Seq,
        Parallelism::Rayon => Par::rayon(0),
    };
    faer::linalg::matmul::matmul(c, accumulate, a.into().0, b.into().0, alpha, par);
}

/// `a·aᵀ`, half of which is computed and the rest copied, on the threads of the current rayon pool.
///
/// ```
/// use treillage_linalg::syrk;
/// use nalgebra::DMatrix;
///
/// let a = DMatrix::from_fn(3, 2, |row, column| (row + 2 * column) as f32);
/// assert_eq!(syrk(&a), &a * a.transpose());
/// ```
pub fn syrk<'a>(a: impl Into<View<'a>>) -> DMatrix<f32> {
    let a = a.into();
    let n = a.shape().0;
    let mut product = DMatrix::zeros(n, n);
    triangular::matmul(
        ViewMut::from(&mut product).0,
        BlockStructure::TriangularLower,
        Accum::Replace,
        a.0,
        BlockStructure::Rectangular,
        a.transpose().0,
        BlockStructure::Rectangular,
        1.0,
        Par::rayon(0),
    );
    mirrored(&product, |x| x)
}
