//! RMS norm (arXiv 1910.07467).

use rayon::prelude::*;
use treillage_backend::Error;
use treillage_trellis::lanes::{Isa, Kernel, Lanes};

use crate::math::sum;
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
    pub(crate) fn apply(&self, isa: Isa, x: &Tensor) -> Result<Tensor, Error> {
        self.check(x.cols())?;
        let mut out = vec![0.0; x.values().len()];
        let width = x.cols().max(1);
        out.par_chunks_mut(width)
            .zip(x.values().par_chunks(width))
            .with_min_len(MIN_ROWS)
            .for_each(|(out, x)| {
                out.copy_from_slice(x);
                self.apply_in_place(isa, out);
            });
        Tensor::new(out, x.cols())
    }

    /// Normalises a row as wide as the norm.
    pub(crate) fn apply_in_place(&self, isa: Isa, row: &mut [f32]) {
        isa.run(RmsNorm { norm: self, row });
    }
}

struct RmsNorm<'a> {
    norm: &'a Norm,
    row: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let RmsNorm { norm, row } = self;
        let squares = sum(row, |x| x * x);
        let factor = 1.0 / (squares / row.len() as f32 + norm.epsilon).sqrt();
        for (value, weight) in row.iter_mut().zip(&norm.weight) {
            *value = *value * factor * weight;
        }
    }
}
