//! Linear layers, dense or packed.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use treillage_backend::{DenseData, DenseWeights, Error, LinearShape, LinearWeights};

use crate::blocks::{BLOCK, Output, for_each_block};
use crate::dots::dots;
use crate::interim::Packed;
use crate::moments::{Moments, observe};
use crate::tensor::Tensor;

/// Rows that a task rotates: fewer are not worth a thread.
const MIN_ROWS: usize = 8;

/// A linear layer of some logical size.
pub struct Linear {
    shape: LinearShape,
    weights: Weights,
    pub(crate) watch: Option<Moments>,
}

enum Weights {
    Dense {
        weight: DenseWeights,
        bias: Option<Vec<f32>>,
    },
    Packed(Packed),
}

/// Activations in the form in which a linear multiplies them.
pub(crate) enum Input<'a> {
    /// As they are.
    Plain(&'a [f32]),
    /// Scaled, padded and rotated.
    Rotated(Vec<f32>),
}

impl Linear {
    pub(crate) fn new(weights: LinearWeights, shape: LinearShape) -> Result<Self, Error> {
        weights.check(shape)?;
        let weights = match weights {
            LinearWeights::Dense { weight, bias } => {
                if let Some(bias) = &bias {
                    Error::check_shape("bias", shape.out_features, bias.len())?;
                }
                Weights::Dense { weight, bias }
            }
            LinearWeights::Trellis(packed) => Weights::Packed(Packed::new(packed)),
        };
        Ok(Self {
            shape,
            weights,
            watch: None,
        })
    }

    /// The logical size.
    pub fn shape(&self) -> LinearShape {
        self.shape
    }

    /// Checks that rows of `width` can be multiplied.
    pub(crate) fn check_input(&self, width: usize) -> Result<(), Error> {
        Error::check_shape("input of a linear", self.shape.in_features, width)
    }

    /// Whether [`Linear::prepare`] gives the same for both.
    pub(crate) fn shares_input(&self, other: &Linear) -> bool {
        match (&self.weights, &other.weights) {
            (Weights::Dense { .. }, Weights::Dense { .. }) => true,
            (Weights::Packed(a), Weights::Packed(b)) => a.packed().suh() == b.packed().suh(),
            _ => false,
        }
    }

    /// Rows of `x`, each as wide as this linear's logical input, in the form [`Linear::multiply`] wants.
    pub(crate) fn prepare<'a>(&self, x: &'a [f32]) -> Input<'a> {
        match &self.weights {
            Weights::Dense { .. } => Input::Plain(x),
            Weights::Packed(packed) => {
                let (width, padded) = (self.shape.in_features, packed.packed().in_features());
                let mut rotated = vec![0.0; x.len() / width * padded];
                rotated
                    .par_chunks_mut(padded)
                    .zip(x.par_chunks(width))
                    .with_min_len(MIN_ROWS)
                    .for_each(|(out, x)| packed.rotate(x, out));
                Input::Rotated(rotated)
            }
        }
    }

    /// Overwrites `out`, `[rows, columns]`, with those columns of the output; a block of [`BLOCK`] or what is left of one.
    pub(crate) fn multiply(&self, input: &Input<'_>, columns: Range<usize>, out: &mut [f32]) {
        match (&self.weights, input) {
            (Weights::Dense { weight, bias }, Input::Plain(x)) => {
                dense(x, weight, columns.clone(), out);
                if let Some(bias) = bias {
                    for row in out.chunks_exact_mut(columns.len()) {
                        for (y, b) in row.iter_mut().zip(&bias[columns.clone()]) {
                            *y += b;
                        }
                    }
                }
            }
            (Weights::Packed(packed), Input::Rotated(x)) => {
                if columns.len() == BLOCK {
                    packed.multiply(x, columns.start, out);
                } else {
                    let mut whole = vec![0.0; out.len() / columns.len() * BLOCK];
                    packed.multiply(x, columns.start, &mut whole);
                    for (out, whole) in out
                        .chunks_exact_mut(columns.len())
                        .zip(whole.chunks_exact(BLOCK))
                    {
                        out.copy_from_slice(&whole[..columns.len()]);
                    }
                }
            }
            _ => unreachable!("an input is prepared by the linear that reads it"),
        }
    }
}

fn dense(x: &[f32], weight: &DenseWeights, outputs: Range<usize>, out: &mut [f32]) {
    let width = weight.cols();
    let span = outputs.start * width..outputs.end * width;
    match weight.data() {
        DenseData::F32(w) => dots(x, &(**w).as_ref()[span], width, out),
        DenseData::F16(w) => dots(x, &(**w).as_ref()[span], width, out),
        DenseData::Bf16(w) => dots(x, &(**w).as_ref()[span], width, out),
    }
}

/// `x Wᵀ` for each of `linears`, which share one input.
pub(crate) fn project<const N: usize>(
    x: &Tensor,
    linears: [&Linear; N],
) -> Result<[Tensor; N], Error> {
    for linear in linears {
        linear.check_input(x.cols())?;
    }
    observe(x.values(), linears.iter().filter_map(|l| l.watch.as_ref()))?;
    let mut outputs = linears.map(|l| vec![0.0; x.rows() * l.shape.out_features]);
    project_onto(x, linears, outputs.each_mut().map(Vec::as_mut_slice));
    let mut cols = linears.iter().map(|l| l.shape.out_features);
    Ok(outputs.map(|values| {
        let cols = cols.next().unwrap_or_default();
        Tensor::from_rows(values, cols)
    }))
}

/// `residual + x Wᵀ`.
pub(crate) fn project_add(x: &Tensor, linear: &Linear, residual: &Tensor) -> Result<Tensor, Error> {
    linear.check_input(x.cols())?;
    Error::check_shape(
        "width of a residual",
        linear.shape.out_features,
        residual.cols(),
    )?;
    Error::check_shape("tokens of a residual", x.rows(), residual.rows())?;
    observe(x.values(), linear.watch.iter())?;
    let mut out = residual.values().to_vec();
    project_onto(x, [linear], [&mut out]);
    Tensor::new(out, residual.cols())
}

/// Adds each linear's output to what is there.
fn project_onto<const N: usize>(x: &Tensor, linears: [&Linear; N], outputs: [&mut [f32]; N]) {
    let mut inputs: Vec<Arc<Input<'_>>> = Vec::with_capacity(N);
    for (i, linear) in linears.iter().enumerate() {
        let same = linears[..i].iter().position(|l| l.shares_input(linear));
        inputs.push(match same {
            Some(same) => Arc::clone(&inputs[same]),
            None => Arc::new(linear.prepare(x.values())),
        });
    }
    let outputs = outputs
        .into_iter()
        .zip(linears)
        .map(|(values, linear)| Output {
            values,
            cols: linear.shape.out_features,
        });
    for_each_block(outputs, |i, columns, rows| {
        let mut products = vec![0.0; rows.len() * columns.len()];
        linears[i].multiply(&inputs[i], columns.clone(), &mut products);
        for (row, products) in rows.iter_mut().zip(products.chunks_exact(columns.len())) {
            for (y, product) in row.iter_mut().zip(products) {
                *y += product;
            }
        }
    });
}
