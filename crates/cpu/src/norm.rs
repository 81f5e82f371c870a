//! RMS norm (arXiv 1910.07467).

use rayon::prelude::*;
use treillage_backend::Error;

use crate::simd::{Kernel, LANES, Simd, dispatch};
use crate::tensor::Tensor;

/// Rows per task: fewer are not worth a thread.
const MIN_ROWS: usize = 8;

/// The weight and epsilon of an RMS norm: `x / sqrt(mean(x²) + epsilon) ∘ weight`.
#[derive(Clone, Debug)]
pub struct Norm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(crate) fn new(weight: Vec<f32>, epsilon: f32) -> Self {
        Self { weight, epsilon }
    }

    /// Checks that this norm is for rows of `width`.
    pub(crate) fn check(&self, width: usize) -> Result<(), Error> {
        Error::check_shape("width of an RMS norm", self.weight.len(), width)
    }

    /// All rows of `x`, normalised.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor, Error> {
        self.check(x.cols())?;
        let mut out = vec![0.0; x.values().len()];
        let width = x.cols().max(1);
        out.par_chunks_mut(width)
            .zip(x.values().par_chunks(width))
            .with_min_len(MIN_ROWS)
            .for_each(|(out, x)| self.apply_row(x, out));
        Tensor::new(out, x.cols())
    }

    /// One row, normalised. Both slices are as wide as the norm.
    fn apply_row(&self, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
        self.apply_in_place(out);
    }

    /// Normalises a row as wide as the norm.
    pub(crate) fn apply_in_place(&self, row: &mut [f32]) {
        dispatch(RmsNorm { norm: self, row });
    }
}

struct RmsNorm<'a> {
    norm: &'a Norm,
    row: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let RmsNorm { norm, row } = self;
        let (chunks, rest) = row.as_chunks::<LANES>();
        let mut squares = simd.splat(0.0);
        for chunk in chunks {
            let v = simd.load(chunk);
            squares = simd.mul_add(v, v, squares);
        }
        let mut sum = simd.sum(squares);
        for v in rest {
            sum += v * v;
        }
        let factor = 1.0 / (sum / row.len() as f32 + norm.epsilon).sqrt();
        for (value, weight) in row.iter_mut().zip(&norm.weight) {
            *value = *value * factor * weight;
        }
    }
}
