use std::array;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use treillage_linalg::hadamard::fwht;
use treillage_trellis::lanes::{Isa, Kernel, LANES, Lanes};
use treillage_trellis::{Codebook, PackedLinear};

use super::quantized::Quantized;
use super::{Aligned, BLOCK, BLOCK_TILES};
use crate::Arithmetic;

/// Rows that a task rotates: fewer are not worth a thread.
const MIN_ROWS: usize = 8;
/// Up to this many quantized rows are multiplied byte by byte: more are worth adding up the bytes first.
pub(super) const BYTE_ROWS: usize = 2;

/// Activations `x`, scaled and rotated: `x · diag(suh) · H`.
pub struct Rotated {
    isa: Isa,
    rows: usize,
    features: usize,
    form: Form,
}

/// Activations as one of the kernels wants them.
pub(super) enum Form {
    Exact(Rows<Singles<f32>>),
    Bytes(Rows<Singles<u32>>),
    Halves(Rows<Pairs>),
}

/// Rows of Hadamard blocks.
pub(super) struct Rows<B> {
    pub(super) blocks: Vec<B>,
    /// Of each block: what its sums of products are multiplied with.
    pub(super) scales: Vec<f32>,
    /// Of each row: what is added to all its outputs.
    pub(super) offsets: Vec<f32>,
}

/// What meets one of the four vectors of a tile's groups: eight lanes, the same for both halves of a vector and for every
/// group.
pub(super) type Pattern<T> = [T; LANES / 2];
/// A block of a row, for products with single weights.
pub(super) type Singles<T> = Aligned<[Pattern<T>; 4 * BLOCK_TILES]>;
/// A block of a row, for products with pairs of weights of neighbouring tile rows, as halves of a lane.
pub(super) type Pairs = Aligned<[Pattern<u32>; 2 * BLOCK_TILES]>;

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
        let form = if arithmetic == Arithmetic::Exact || linear.codebook() != Codebook::Mul1 {
            Form::Exact(Rows::new(isa, linear, x, width))
        } else if rows <= BYTE_ROWS {
            Form::Bytes(Rows::new(isa, linear, x, width))
        } else {
            Form::Halves(Rows::new(isa, linear, x, width))
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

impl<B: Layout> Rows<B> {
    fn new(isa: Isa, linear: &PackedLinear, x: &[f32], width: usize) -> Self {
        let (rows, features) = (x.len() / width, linear.in_features());
        let per_row = features / BLOCK;
        let mut suh = vec![0.0; features];
        linear.suh().convert_to_f32_slice(&mut suh);
        let mut blocks = vec![B::ZERO; rows * per_row];
        let mut scales = vec![0.0; rows * per_row];
        let offsets = (x.par_chunks_exact(width))
            .zip(blocks.par_chunks_exact_mut(per_row))
            .zip(scales.par_chunks_exact_mut(per_row))
            .with_min_len(MIN_ROWS)
            .map_init(
                || vec![0.0; features],
                |rotated, ((x, blocks), scales)| {
                    for ((rotated, x), scale) in rotated.iter_mut().zip(x).zip(&suh) {
                        *rotated = x * scale;
                    }
                    rotated[width..].fill(0.0);
                    fwht(rotated, BLOCK);
                    isa.run(LayOut {
                        rotated,
                        blocks,
                        scales,
                    })
                },
            )
            .collect();
        Self {
            blocks,
            scales,
            offsets,
        }
    }
}

/// How a kernel wants a block.
pub(super) trait Layout: Copy + Send + Sync {
    /// Of zeros.
    const ZERO: Self;

    /// A rotated block, the scale of its products and their offset.
    fn lay_out<L: Lanes>(block: &[f32; BLOCK]) -> (Self, f32, f32);
}

impl Layout for Singles<f32> {
    const ZERO: Self = Aligned([[0.0; LANES / 2]; 4 * BLOCK_TILES]);

    #[inline(always)]
    fn lay_out<L: Lanes>(block: &[f32; BLOCK]) -> (Self, f32, f32) {
        (singles(block), 1.0, 0.0)
    }
}

impl Layout for Singles<u32> {
    const ZERO: Self = Aligned([[0; LANES / 2]; 4 * BLOCK_TILES]);

    #[inline(always)]
    fn lay_out<L: Lanes>(block: &[f32; BLOCK]) -> (Self, f32, f32) {
        let quantized = Quantized::new(block);
        (
            singles(&quantized.values.map(L::byte_factor)),
            quantized.scale(),
            quantized.offset(),
        )
    }
}

impl Layout for Pairs {
    const ZERO: Self = Aligned([[0; LANES / 2]; 2 * BLOCK_TILES]);

    #[inline(always)]
    fn lay_out<L: Lanes>(block: &[f32; BLOCK]) -> (Self, f32, f32) {
        let quantized = Quantized::new(block);
        (
            pairs(&quantized.values),
            quantized.scale(),
            quantized.offset(),
        )
    }
}

/// Eight rows of a tile make two patterns, of the even rows and of the odd ones.
#[inline(always)]
fn singles<T: Copy + Default>(block: &[T; BLOCK]) -> Singles<T> {
    let mut singles = Aligned([[T::default(); LANES / 2]; 4 * BLOCK_TILES]);
    let (eights, _) = block.as_chunks::<8>();
    let (patterns, _) = singles.0.as_chunks_mut::<2>();
    for ([even, odd], eight) in patterns.iter_mut().zip(eights) {
        *even = array::from_fn(|lane| eight[lane / 2 * 2]);
        *odd = array::from_fn(|lane| eight[lane / 2 * 2 + 1]);
    }
    singles
}

/// Eight rows of a tile make one pattern, of an even row and the odd one after it.
#[inline(always)]
fn pairs(block: &[i8; BLOCK]) -> Pairs {
    let half = |value: i8| u32::from(i16::from(value) as u16);
    let mut pairs = Pairs::ZERO;
    let (eights, _) = block.as_chunks::<8>();
    for (pattern, eight) in pairs.0.iter_mut().zip(eights) {
        *pattern =
            array::from_fn(|lane| half(eight[lane / 2 * 2]) | half(eight[lane / 2 * 2 + 1]) << 16);
    }
    pairs
}

/// Lays out a row of rotated blocks; gives the sum of their offsets.
struct LayOut<'a, B> {
    rotated: &'a [f32],
    blocks: &'a mut [B],
    scales: &'a mut [f32],
}

impl<B: Layout> Kernel for LayOut<'_, B> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> f32 {
        let (rotated, _) = self.rotated.as_chunks();
        let mut sum = 0.0;
        for ((rotated, block), scale) in rotated.iter().zip(self.blocks).zip(self.scales) {
            let offset;
            (*block, *scale, offset) = B::lay_out::<L>(rotated);
            sum += offset;
        }
        sum
    }
}
