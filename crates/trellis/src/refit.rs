//! After encoding: the scales that fit best, and the error that is left.

use half::f16;
use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;
use treillage_linalg::{Parallelism, gemm, syrk};

use crate::ToFit;

/// A linear whose trellis is settled: `W ≈ diag(input) · inner · diag(output)`, in the metric of its inputs' second moment.
pub(crate) struct Fit<'a> {
    /// The weights `W`, (in, out).
    weights: &'a DMatrix<f32>,
    /// The trellis values in the original basis.
    inner: DMatrix<f32>,
    /// `E[x xᵀ]`; the identity without.
    hessian: Option<&'a DMatrix<f32>>,
    /// Added to the Hessian's diagonal for fitting, so that few tokens do not fit too well.
    damping: f32,
    /// The damped Hessian times `W`.
    pulled: DMatrix<f32>,
}

impl<'a> Fit<'a> {
    pub(crate) fn new(
        weights: &'a DMatrix<f32>,
        inner: DMatrix<f32>,
        hessian: Option<&'a DMatrix<f32>>,
        damping: f32,
    ) -> Self {
        let pulled = product(hessian, damping, weights);
        Self {
            weights,
            inner,
            hessian,
            damping,
            pulled,
        }
    }

    /// The input scales of least error beside the output scales `output`, starting from `input`.
    ///
    /// With `V = inner · diag(output)` the error `tr((W − diag(s) V)ᵀ H (W − diag(s) V))` is quadratic in `s`; it is least where
    /// `(H ∘ V Vᵀ) s = diag(H W Vᵀ)`.
    pub(crate) fn input_scale(&self, input: &[f16], output: &[f16]) -> Vec<f16> {
        let v = scaled(&self.inner, &vec![f16::ONE; input.len()], output);
        let mut wanted = vec![0.0; input.len()];
        for (v, pulled) in v.column_iter().zip(self.pulled.column_iter()) {
            for ((wanted, v), pulled) in wanted.iter_mut().zip(v.as_slice()).zip(pulled.as_slice())
            {
                *wanted += f64::from(*v) * f64::from(*pulled);
            }
        }
        let matrix = match self.hessian {
            Some(hessian) => {
                let mut matrix = syrk(&v);
                let size = matrix.diagonal();
                matrix.component_mul_assign(hessian);
                matrix.set_diagonal(&(matrix.diagonal() + size * self.damping));
                matrix
            }
            None => DMatrix::from_diagonal(&DVector::from_iterator(
                input.len(),
                v.row_iter().map(|row| row.norm_squared()),
            )),
        };
        let start = input.iter().map(|s| s.to_f64()).collect();
        let fitted = conjugate_gradients(&matrix, &wanted, start);
        input
            .iter()
            .zip(fitted)
            .map(|(&s, fitted)| replace(s, fitted))
            .collect()
    }

    /// The linear with its input scales settled.
    pub(crate) fn with_input<'b>(&'b self, input: &[f16]) -> WithInput<'b> {
        let output = vec![f16::ONE; self.inner.ncols()];
        let stored = scaled(&self.inner, input, &output);
        let pulled = product(self.hessian, self.damping, &stored);
        WithInput {
            fit: self,
            stored,
            pulled,
        }
    }
}

/// A linear that lacks its output scales.
pub(crate) struct WithInput<'a> {
    fit: &'a Fit<'a>,
    /// `diag(input) · inner`.
    stored: DMatrix<f32>,
    /// The damped Hessian times that.
    pulled: DMatrix<f32>,
}

impl WithInput<'_> {
    /// The output scales of least error: `w_jᵀ H v_j / v_jᵀ H v_j` for the output whose stored weights are `v_j` times its scale.
    /// Keeps that of `output` where this is not defined: an output that is zero, or that no input reaches.
    pub(crate) fn output_scale(&self, output: &[f16]) -> Vec<f16> {
        let fitted = |column: usize| {
            let v = self.stored.column(column);
            dot(v.as_slice(), self.fit.pulled.column(column).as_slice())
                / dot(v.as_slice(), self.pulled.column(column).as_slice())
        };
        (0..output.len())
            .map(|column| replace(output[column], fitted(column)))
            .collect()
    }

    /// `tr(Eᵀ H E) / tr(Wᵀ H W)` with these scales, undamped; 0 where no weight counts.
    ///
    /// `E = diag(input) · inner · diag(output) − W`, so that `H E` is what both products say: no third is needed.
    pub(crate) fn relative_error(&self, output: &[f16]) -> f64 {
        let fit = self.fit;
        let added = match fit.hessian {
            Some(_) => f64::from(fit.damping),
            None => 0.0,
        };
        let (mut left, mut all) = (0.0, 0.0);
        // Column after column.
        let rows = self.stored.nrows().max(1);
        let stored = self.stored.as_slice().iter().zip(self.pulled.as_slice());
        let wanted = fit.weights.as_slice().iter().zip(fit.pulled.as_slice());
        for (at, ((&v, &hv), (&w, &hw))) in stored.zip(wanted).enumerate() {
            let output = output[at / rows].to_f64();
            let [v, hv, w, hw] = [v, hv, w, hw].map(f64::from);
            let error = output * v - w;
            left += error * (output * hv - hw - added * error);
            all += w * (hw - added * w);
        }
        if left == 0.0 { 0.0 } else { left / all }
    }
}

/// `diag(input) · inner · diag(output)`.
fn scaled(inner: &DMatrix<f32>, input: &[f16], output: &[f16]) -> DMatrix<f32> {
    let input: Vec<f32> = input.iter().map(|s| s.to_f32()).collect();
    let mut scaled = inner.clone();
    for (mut column, output) in scaled.column_iter_mut().zip(output) {
        let output = output.to_f32();
        for (value, input) in column.as_mut_slice().iter_mut().zip(&input) {
            *value *= input * output;
        }
    }
    scaled
}

/// `(hessian + damping) · a`, or `a` itself without a Hessian.
fn product(hessian: Option<&DMatrix<f32>>, damping: f32, a: &DMatrix<f32>) -> DMatrix<f32> {
    let mut product = a.clone();
    if let Some(hessian) = hessian {
        gemm(1.0, hessian, a, damping, &mut product, Parallelism::Rayon);
    }
    product
}

/// `fitted` in half precision, unless `scale` is zero or `fitted` is nothing to store.
fn replace(scale: f16, fitted: f64) -> f16 {
    let fitted = f16::from_f64(fitted);
    if fitted.is_finite() && scale != f16::ZERO {
        fitted
    } else {
        scale
    }
}

/// In several sums, for one would wait for itself.
fn dot<T: Copy + Into<f64>>(a: &[f32], b: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let (whole, rest) = a.as_chunks::<8>();
    let (others, other_rest) = b.as_chunks::<8>();
    for (a, b) in whole.iter().zip(others) {
        for i in 0..8 {
            sums[i] += f64::from(a[i]) * b[i].into();
        }
    }
    let rest = rest.iter().zip(other_rest);
    sums.into_iter().sum::<f64>() + rest.map(|(&a, &b)| f64::from(a) * b.into()).sum::<f64>()
}

/// Improves `x` towards `matrix · x = b` for a symmetric positive semidefinite `matrix`, preconditioned by its diagonal. Each
/// step lowers the quadratic form, so that stopping early leaves nothing worse than the start.
fn conjugate_gradients(matrix: &DMatrix<f32>, b: &[f64], mut x: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    // Rows are columns, which are contiguous.
    let times = |x: &[f64]| -> Vec<f64> {
        let columns = matrix.as_slice().par_chunks_exact(n);
        columns.map(|column| dot(column, x)).collect()
    };
    let inner = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let precondition = |r: &[f64]| -> Vec<f64> {
        let diagonal = (0..n).map(|i| f64::from(matrix[(i, i)]));
        r.iter()
            .zip(diagonal)
            .map(|(r, d)| if d > 0.0 { r / d } else { 0.0 })
            .collect()
    };
    let mut residual: Vec<f64> = b.iter().zip(times(&x)).map(|(b, ax)| b - ax).collect();
    let mut direction = precondition(&residual);
    let mut size = inner(&residual, &direction);
    for _ in 0..ToFit::STEPS {
        let image = times(&direction);
        let curvature = inner(&direction, &image);
        if size <= 0.0 || curvature <= 0.0 {
            break;
        }
        let step = size / curvature;
        for i in 0..n {
            x[i] += step * direction[i];
            residual[i] -= step * image[i];
        }
        let next = precondition(&residual);
        let next_size = inner(&residual, &next);
        for (direction, next) in direction.iter_mut().zip(&next) {
            *direction = next + next_size / size * *direction;
        }
        size = next_size;
    }
    x
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn noise(rows: usize, columns: usize, seed: u64) -> DMatrix<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        DMatrix::from_fn(rows, columns, |_, _| rng.random::<f32>() - 0.5)
    }

    fn halves(len: usize, seed: u64) -> Vec<f16> {
        noise(len, 1, seed)
            .iter()
            .map(|x| f16::from_f32(1.0 + x))
            .collect()
    }

    #[test]
    fn scales_that_made_the_weights_are_found_again() {
        let factor = noise(128, 128, 1);
        let hessian = &factor * factor.transpose();
        let inner = noise(128, 256, 2);
        let (input, output) = (halves(128, 3), halves(256, 4));
        for hessian in [Some(&hessian), None] {
            let truth = scaled(&inner, &input, &output);
            let fit = Fit::new(&truth, inner.clone(), hessian, 0.1);
            let rough: Vec<f16> = output.iter().map(|s| *s * f16::from_f32(0.8)).collect();
            assert_eq!(fit.with_input(&input).output_scale(&rough), output);
            let rough: Vec<f16> = halves(128, 5);
            let found = fit.input_scale(&rough, &output);
            let distance = |a: &f16, b: &f16| (a.to_f32() - b.to_f32()).abs();
            let worst = found
                .iter()
                .zip(&input)
                .map(|(a, b)| distance(a, b))
                .fold(0.0, f32::max);
            assert!(worst < 0.01, "{worst}");
            let error = |input: &[f16]| fit.with_input(input).relative_error(&output);
            assert!(error(&input) < 1e-12);
            assert!(error(&found) < error(&rough) / 1e3);
        }
    }

    #[test]
    fn zero_scales_stay_and_zero_weights_have_no_error() {
        let weights = DMatrix::zeros(128, 128);
        let fit = Fit::new(&weights, noise(128, 128, 1), None, 0.0);
        let zero = vec![f16::ZERO; 128];
        let one = vec![f16::ONE; 128];
        let fit = fit.with_input(&one);
        assert_eq!(fit.output_scale(&zero), zero);
        assert_eq!(fit.relative_error(&zero), 0.0);
    }
}
