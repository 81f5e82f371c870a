//! Linear layers: dense, packed or grouped.

use std::ops::Range;
use std::sync::Arc;

use treillage_backend::{DenseData, DenseWeights, Error, LinearShape, LinearWeights};
use treillage_gptq::GroupedLinear;
use treillage_trellis::{PackedLinear, TILE};

use crate::backend::Arithmetic;
use crate::blocks::BLOCK;
use crate::compute::Compute;
use crate::dots::dots;
use crate::grouped::Arranged;
use crate::moments::Moments;
use crate::packed::Rotated;

/// Up to this many rows [`Arithmetic::Int8`] applies: more are no faster for it.
const INT8_ROWS: usize = 4;

/// A linear layer of some logical size.
pub struct Linear {
    shape: LinearShape,
    weights: Weights,
    watch: Option<Moments>,
}

enum Weights {
    Dense {
        weight: DenseWeights,
        bias: Option<Vec<f32>>,
    },
    Packed(Arc<PackedLinear>),
    Grouped(Arc<GroupedLinear>),
}

/// Activations in the form in which a linear multiplies them.
pub(crate) enum Input<'a> {
    /// As they are.
    Plain(&'a [f32]),
    /// Scaled, padded and rotated.
    Rotated(Rotated),
    /// Reordered, rotated and laid out.
    Arranged(Arranged),
}

impl Linear {
    pub(crate) fn new(weights: LinearWeights, shape: LinearShape) -> Result<Self, Error> {
        weights.check(shape)?;
        if shape.weights() == 0 {
            return Err(Error::Shape {
                what: "weights of a linear, at least".to_owned(),
                expected: 1,
                found: 0,
            });
        }
        let weights = match weights {
            LinearWeights::Dense { weight, bias } => {
                if let Some(bias) = &bias {
                    Error::check_shape("bias", shape.out_features, bias.len())?;
                }
                Weights::Dense { weight, bias }
            }
            LinearWeights::Trellis(packed) => Weights::Packed(packed),
            LinearWeights::Grouped(grouped) => Weights::Grouped(grouped),
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

    /// From now on adds what it reads to `moments`.
    pub(crate) fn watch(&mut self, moments: &Moments) -> Result<(), Error> {
        self.check_input(moments.width())?;
        self.watch = Some(moments.clone());
        Ok(())
    }

    /// Where it adds what it reads.
    pub(crate) fn watched(&self) -> Option<&Moments> {
        self.watch.as_ref()
    }

    /// Checks that rows of `width` can be multiplied.
    pub(crate) fn check_input(&self, width: usize) -> Result<(), Error> {
        Error::check_shape("input of a linear", self.shape.in_features, width)
    }

    /// Checks that this is a linear from `input` to `output` values.
    pub(crate) fn check(&self, input: usize, output: usize) -> Result<(), Error> {
        self.check_input(input)?;
        Error::check_shape("output of a linear", self.shape.out_features, output)
    }

    /// Whether [`Linear::prepare`] gives the same for both.
    pub(crate) fn shares_input(&self, other: &Linear) -> bool {
        match (&self.weights, &other.weights) {
            (Weights::Dense { .. }, Weights::Dense { .. }) => true,
            (Weights::Packed(a), Weights::Packed(b)) => {
                a.codebook() == b.codebook() && a.suh() == b.suh()
            }
            (Weights::Grouped(a), Weights::Grouped(b)) => Arranged::serves_both(a, b),
            _ => false,
        }
    }

    /// Rows of `x`, each as wide as this linear's logical input, in the form in which [`Linear::multiply`] wants them.
    pub(crate) fn prepare<'a>(&self, compute: Compute, x: &'a [f32]) -> Input<'a> {
        let width = self.shape.in_features;
        let arithmetic = if x.len() <= INT8_ROWS * width {
            compute.arithmetic
        } else {
            Arithmetic::Exact
        };
        match &self.weights {
            Weights::Dense { .. } => Input::Plain(x),
            Weights::Packed(packed) => {
                Input::Rotated(Rotated::new(compute.isa, arithmetic, packed, x, width))
            }
            Weights::Grouped(grouped) => {
                Input::Arranged(Arranged::new(compute.isa, arithmetic, grouped, x))
            }
        }
    }

    /// Overwrites `out`, `[rows, columns]`, with those columns of the output: a block of [`BLOCK`], or what is left of one.
    pub(crate) fn multiply(
        &self,
        compute: Compute,
        input: &Input<'_>,
        columns: Range<usize>,
        out: &mut [f32],
    ) {
        let count = columns.len();
        match (&self.weights, input) {
            (Weights::Dense { weight, bias }, Input::Plain(x)) => {
                dense(compute, x, weight, columns.clone(), out);
                if let Some(bias) = bias {
                    for row in out.chunks_exact_mut(count) {
                        for (y, b) in row.iter_mut().zip(&bias[columns.clone()]) {
                            *y += b;
                        }
                    }
                }
            }
            (Weights::Packed(packed), Input::Rotated(x)) => {
                let first = columns.start / TILE;
                let tiles = first..first + BLOCK / TILE;
                if count == BLOCK {
                    x.multiply(packed, tiles, out);
                } else {
                    let mut padded = vec![0.0; x.rows() * BLOCK];
                    x.multiply(packed, tiles, &mut padded);
                    for (out, padded) in out.chunks_exact_mut(count).zip(padded.chunks_exact(BLOCK))
                    {
                        out.copy_from_slice(&padded[..count]);
                    }
                }
            }
            (Weights::Grouped(grouped), Input::Arranged(x)) => x.multiply(grouped, columns, out),
            _ => unreachable!("an input is prepared by the linear that reads it"),
        }
    }
}

/// Overwrites `out`, `[rows, outputs]`, with those outputs of `x Wᵀ`.
pub(crate) fn dense(
    Compute { isa, .. }: Compute,
    x: &[f32],
    weight: &DenseWeights,
    outputs: Range<usize>,
    out: &mut [f32],
) {
    let width = weight.cols();
    let span = outputs.start * width..outputs.end * width;
    match weight.data() {
        DenseData::F32(w) => dots(isa, x, &(**w).as_ref()[span], width, out),
        DenseData::F16(w) => dots(isa, x, &(**w).as_ref()[span], width, out),
        DenseData::Bf16(w) => dots(isa, x, &(**w).as_ref()[span], width, out),
    }
}
