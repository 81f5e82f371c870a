use std::array;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use treillage_linalg::hadamard::fwht;
use treillage_trellis::lanes::{Isa, Kernel, LANES, Lanes};
use treillage_trellis::{Codebook, PackedLinear};

use super::quantized::Quantized;
use super::{BLOCK, BLOCK_TILES};
use crate::Arithmetic;

/// Rows that a task rotates: fewer are not worth a thread.
const MIN_ROWS: usize = 8;
/// Up to this many quantized rows are multiplied byte by byte: more are worth adding up the bytes first.
const BYTE_ROWS: usize = 2;

/// A vector of activations of one Hadamard block, for each of the four vectors of a tile's groups: eight lanes, the same for
/// the first and the second half of a vector, and for every group.
pub(super) type Pattern<T> = [T; LANES / 2];
/// A row's block, for products with single weights.
pub(super) type Singles<T> = [Pattern<T>; 4 * BLOCK_TILES];
/// A row's block, for products with pairs of weights of neighbouring tile rows.
pub(super) type Pairs = [Pattern<u32>; 2 * BLOCK_TILES];

/// Activations `x`, scaled and rotated: `x · diag(suh) · H`.
pub struct Rotated {
    isa: Isa,
    rows: usize,
    features: usize,
    form: Form,
}

/// Rows of blocks.
pub(super) enum Form {
    Exact(Vec<Singles<f32>>),
    Bytes(Vec<Singles<u32>>, Steps),
    Halves(Vec<Pairs>, Steps),
}

/// What quantized activations are multiplied with.
pub(super) struct Steps {
    /// Of each block of each row.
    pub(super) scales: Vec<f32>,
    /// Added to all outputs of each row.
    pub(super) offsets: Vec<f32>,
}

impl Rotated {
    /// Rows of `x`, `width` each, as `linear` wants them; missing channels up to the linear's padded input are zero.
    ///
    /// [`Arithmetic::Int8`] holds for [`Codebook::Mul1`] alone; activations of other linears stay exact.
    ///
    /// # Panics
    /// If `width` is 0 or wider than the linear's input, or `x` is not whole rows.
    pub fn new(
        isa: Isa,
        arithmetic: Arithmetic,
        linear: &PackedLinear,
        x: &[f32],
        width: usize,
    ) -> Self {
        let features = linear.in_features();
        assert!(
            (1..=features).contains(&width),
            "rows of {width} for {features} input channels"
        );
        assert!(
            x.len().is_multiple_of(width),
            "{} values in rows of {width}",
            x.len()
        );
        let rows = x.len() / width;
        let mut scales = vec![0.0; features];
        linear.suh().convert_to_f32_slice(&mut scales);
        let mut rotated = vec![0.0; rows * features];
        rotated
            .par_chunks_exact_mut(features)
            .zip(x.par_chunks_exact(width))
            .with_min_len(MIN_ROWS)
            .for_each(|(rotated, x)| {
                for ((rotated, x), scale) in rotated.iter_mut().zip(x).zip(&scales) {
                    *rotated = x * scale;
                }
                fwht(rotated, BLOCK);
            });
        let (blocks, _) = rotated.as_chunks::<BLOCK>();
        let quantize = arithmetic == Arithmetic::Int8 && linear.codebook() == Codebook::Mul1;
        let form = if !quantize {
            Form::Exact(blocks.iter().map(singles).collect())
        } else {
            let blocks: Vec<Quantized> = blocks.iter().map(Quantized::new).collect();
            let steps = Steps {
                scales: blocks.iter().map(Quantized::scale).collect(),
                offsets: blocks
                    .chunks_exact(features / BLOCK)
                    .map(|row| row.iter().map(Quantized::offset).sum())
                    .collect(),
            };
            if rows <= BYTE_ROWS {
                let factors = ByteFactors { blocks: &blocks };
                Form::Bytes(isa.run(factors), steps)
            } else {
                Form::Halves(
                    blocks.iter().map(|block| pairs(&block.values)).collect(),
                    steps,
                )
            }
        };
        Self {
            isa,
            rows,
            features,
            form,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    pub(super) fn features(&self) -> usize {
        self.features
    }

    pub(super) fn form(&self) -> &Form {
        &self.form
    }
}

/// The activation that lane `lane` of vector `vector` of tile `tile` meets: see the order of [`lanes`](treillage_trellis::lanes).
fn channel(tile: usize, vector: usize, lane: usize) -> usize {
    16 * tile + 2 * (lane / 2) + vector % 2 + 8 * (vector / 2)
}

fn singles<T: Copy>(block: &[T; BLOCK]) -> Singles<T> {
    array::from_fn(|at| array::from_fn(|lane| block[channel(at / 4, at % 4, lane)]))
}

fn pairs(block: &[i8; BLOCK]) -> Pairs {
    let half = |channel| u32::from(i16::from(block[channel]) as u16);
    array::from_fn(|at| {
        array::from_fn(|lane| {
            let first = channel(at / 2, 2 * (at % 2), lane);
            half(first) | half(first + 1) << 16
        })
    })
}

/// Spells quantized blocks the way that the instructions multiply bytes by them.
struct ByteFactors<'a> {
    blocks: &'a [Quantized],
}

impl Kernel for ByteFactors<'_> {
    type Output = Vec<Singles<u32>>;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> Self::Output {
        let mut factors = Vec::with_capacity(self.blocks.len());
        for block in self.blocks {
            factors.push(singles(&block.values.map(L::byte_factor)));
        }
        factors
    }
}
