//! After encoding: the output scales that fit best, and the error that is left.

use half::f16;
use nalgebra::{DMatrix, DVector};
use treillage_linalg::{Parallelism, gemm};

/// Weights against what is stored for them, in the metric of a Hessian.
pub(crate) struct Fit<'a> {
    /// The weights, (in, out).
    weights: &'a DMatrix<f32>,
    /// What is stored, but for the output scales.
    stored: DMatrix<f32>,
    /// `E[x xᵀ]`; the identity without.
    hessian: Option<&'a DMatrix<f32>>,
    /// `hessian · stored`.
    hessian_stored: Option<DMatrix<f32>>,
}

impl<'a> Fit<'a> {
    pub(crate) fn new(
        weights: &'a DMatrix<f32>,
        stored: DMatrix<f32>,
        hessian: Option<&'a DMatrix<f32>>,
    ) -> Self {
        let hessian_stored = hessian.map(|h| product(h, &stored));
        Self {
            weights,
            stored,
            hessian,
            hessian_stored,
        }
    }

    /// The scale `s_j` of least `(w_j − s_j v_j)ᵀ H (w_j − s_j v_j)` for each output: `w_jᵀ H v_j / v_jᵀ H v_j`. Keeps `scale`
    /// where that is not defined: an output that is zero, or that no input reaches.
    pub(crate) fn output_scale(&self, scale: &[f16]) -> Vec<f16> {
        let hv = self.hessian_stored.as_ref().unwrap_or(&self.stored);
        let columns = self
            .weights
            .column_iter()
            .zip(self.stored.column_iter())
            .zip(hv.column_iter());
        columns
            .zip(scale)
            .map(|(((w, v), hv), &scale)| {
                let refitted = f16::from_f64(
                    dot(w.as_slice(), hv.as_slice()) / dot(v.as_slice(), hv.as_slice()),
                );
                if refitted.is_finite() && scale != f16::ZERO {
                    refitted
                } else {
                    scale
                }
            })
            .collect()
    }

    /// `tr(Eᵀ H E) / tr(Wᵀ H W)` with output scales `scale`; 0 where no weight counts.
    pub(crate) fn relative_error(&self, scale: &[f16]) -> f64 {
        let mut error = self.stored.clone();
        for ((mut column, w), scale) in error
            .column_iter_mut()
            .zip(self.weights.column_iter())
            .zip(scale)
        {
            column.axpy(1.0, &w, -scale.to_f32());
        }
        match (self.energy(&error), self.energy(self.weights)) {
            (_, 0.0) => 0.0,
            (error, whole) => error / whole,
        }
    }

    /// `tr(Aᵀ H A)`.
    fn energy(&self, a: &DMatrix<f32>) -> f64 {
        match self.hessian {
            Some(h) => dot(a.as_slice(), product(h, a).as_slice()),
            None => dot(a.as_slice(), a.as_slice()),
        }
    }
}

fn product(hessian: &DMatrix<f32>, a: &DMatrix<f32>) -> DMatrix<f32> {
    let mut product = DMatrix::zeros(a.nrows(), a.ncols());
    gemm(1.0, hessian, a, 0.0, &mut product, Parallelism::Rayon);
    product
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

/// The RMS of each input channel: roots of the diagonal of `E[x xᵀ]`.
pub(crate) fn activations(hessian: &DMatrix<f32>) -> DVector<f32> {
    hessian.diagonal().map(|h| h.max(0.0).sqrt())
}
