/// What can be wrong with a matrix or a batch of activations.
///
/// Shapes that only a mistake in the calling code can get wrong (a Hadamard block that does not divide a row, operands of
/// [`gemm`](crate::gemm) that do not fit) panic instead, as they do in nalgebra.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A factorization was asked of a matrix that is not square.
    #[error("a symmetric matrix must be square, this one is {rows}×{columns}")]
    NotSquare {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// An entry of the lower triangle is NaN or infinite.
    #[error("the matrix holds {value} at row {row}, column {column}")]
    NonFinite {
        /// Row of the entry.
        row: usize,
        /// Column of the entry.
        column: usize,
        /// The entry itself.
        value: f32,
    },
    /// The diagonal is zero, negative or too small to damp in proportion to it: the matrix of inputs that were never seen.
    #[error("the matrix carries no signal: the mean of its diagonal is {mean_diagonal:e}")]
    NoSignal {
        /// Mean of the diagonal.
        mean_diagonal: f64,
    },
    /// No damping that was allowed made the matrix positive definite.
    #[error(
        "the matrix is not positive definite after {attempts} attempts, the last with {damping:e} added to its diagonal"
    )]
    NotPositiveDefinite {
        /// Factorizations tried.
        attempts: u32,
        /// Absolute damping of the last one.
        damping: f64,
    },
    /// Activations are not a whole number of rows.
    #[error("{len} activations are not rows of {features} features")]
    RowLength {
        /// Values given.
        len: usize,
        /// Values in a row.
        features: usize,
    },
    /// There is not one weight for each row.
    #[error("{weights} weights were given for {rows} rows")]
    WeightCount {
        /// Rows given.
        rows: usize,
        /// Weights given.
        weights: usize,
    },
    /// A weight is negative, NaN or infinite.
    #[error("the weight of row {row} is {weight}, it must be finite and not negative")]
    Weight {
        /// Row the weight belongs to.
        row: usize,
        /// The weight itself.
        weight: f32,
    },
    /// A count of tokens or a strength of shrinkage is negative, NaN or infinite.
    #[error("{count} is not a number of tokens: it must be finite and not negative")]
    Count {
        /// The value given.
        count: f64,
    },
    /// Two Hessians describe different inputs.
    #[error("Hessians over {left} and {right} features cannot be combined")]
    Features {
        /// Features of the one that was to change.
        left: usize,
        /// Features of the other.
        right: usize,
    },
}
