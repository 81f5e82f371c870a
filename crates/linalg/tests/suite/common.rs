//! Matrices to test with.

use nalgebra::DMatrix;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `len` values between −1 and 1.
pub(crate) fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A matrix of values between −1 and 1.
pub(crate) fn matrix(rows: usize, columns: usize, seed: u64) -> DMatrix<f32> {
    DMatrix::from_vec(rows, columns, values(rows * columns, seed))
}

/// Exact conversion, for checks in double precision.
pub(crate) fn wide(matrix: &DMatrix<f32>) -> DMatrix<f64> {
    matrix.map(f64::from)
}

/// What `work` returns, on a pool of each of several sizes.
pub(crate) fn on_pools<T: Send>(work: impl Fn() -> T + Sync) -> Vec<T> {
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    [1, 2, 3, 8]
        .map(|threads| pool(threads).install(&work))
        .into()
}
