//! How far a quantized linear is from the original, in its outputs.

use nalgebra::DMatrix;
use rayon::prelude::*;
use treillage_linalg::Hessian;

use crate::{Error, GroupedLinear};

/// `tr(D H Dᵀ) / tr(W H Wᵀ)` with `D = W − Q`: the squared error of the outputs relative to the outputs, for inputs of second moment
/// `H`. Without a Hessian, or with one that sees nothing, the squared error of the weights relative to the weights. 0 for weights that are all zero.
///
/// `weights`, of shape (in, out), and `hessian`, of shape (in, in), are in the layer's own basis, whatever the linear's rotation and order.
///
/// # Errors
/// [`Error::Shape`].
pub fn relative_error(
    weights: &DMatrix<f32>,
    linear: &GroupedLinear,
    hessian: Option<&DMatrix<f32>>,
) -> Result<f64, Error> {
    let (inputs, outputs) = weights.shape();
    check("rows of weights", linear.in_features(), inputs)?;
    check("columns of weights", linear.out_features(), outputs)?;
    if let Some(hessian) = hessian {
        check_square(hessian, inputs)?;
    }
    let mut difference = linear.dequantize();
    let pairs = difference.par_iter_mut().zip(weights.as_slice());
    pairs.for_each(|(value, weight)| *value = weight - *value);

    if let Some(hessian) = hessian {
        let power = energy(weights.as_slice(), hessian)?;
        if power.is_normal() && power > 0.0 {
            return Ok(energy(&difference, hessian)? / power);
        }
    }
    let power = squares(weights.as_slice());
    Ok(if power > 0.0 {
        squares(&difference) / power
    } else {
        0.0
    })
}

/// `tr(A H Aᵀ)` for the rows of `A`, that is the sum of `H ∘ AᵀA`.
fn energy(rows: &[f32], hessian: &DMatrix<f32>) -> Result<f64, Error> {
    let inputs = hessian.nrows();
    let mut gram = Hessian::new(inputs);
    // Whole rows, as the caller has checked; the error is for the type's sake.
    gram.update(rows).map_err(|_| Error::Shape {
        what: "weights",
        expected: inputs,
        found: rows.len(),
    })?;
    let (mean, count) = (gram.mean(), gram.count());
    let columns = mean
        .as_slice()
        .par_chunks(inputs)
        .zip(hessian.as_slice().par_chunks(inputs));
    // Summed column by column and then over columns: in the same order whatever the number of threads.
    let sums: Vec<f64> = columns
        .map(|(a, b)| {
            a.iter()
                .zip(b)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum()
        })
        .collect();
    Ok(count * sums.iter().sum::<f64>())
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum()
}

fn check(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    match expected == found {
        true => Ok(()),
        false => Err(Error::Shape {
            what,
            expected,
            found,
        }),
    }
}

pub(crate) fn check_square(hessian: &DMatrix<f32>, inputs: usize) -> Result<(), Error> {
    check("rows of the Hessian", inputs, hessian.nrows())?;
    check("columns of the Hessian", inputs, hessian.ncols())
}
