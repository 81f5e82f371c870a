use treillage_trellis::lanes::{GROUPS, Kernel, LANES, Lanes, Ring};
use treillage_trellis::{Bits, MUL1_MULTIPLIER, TILE};

use super::input::{BYTE_ROWS, Pairs, Rows, Singles};
use super::tiles::{Column, Tiles};
use super::{Aligned, BLOCK_TILES, tile_outputs};

/// What is shared by both ways to multiply quantized activations with `What`, of the codebook MUL1.
///
/// A weight is affine in the sum of its product's bytes, but for its rounding to half precision, which is left out. So a
/// block of a row contributes `scale · Σ activation · byte sum`, an exact integer sum, and an offset common to all outputs.
pub(super) struct Int8<'a, B> {
    pub(super) tiles: Tiles<'a>,
    pub(super) bits: Bits,
    pub(super) x: &'a Rows<B>,
    pub(super) rows: usize,
    /// `[rows, 16 columns]`.
    pub(super) out: &'a mut [f32],
}

/// Row by row, bytes of products times activations.
impl Kernel for Int8<'_, Singles<u32>> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for_bits!(self.bits, K => self.bytes::<L, K>(lanes))
    }
}

/// Byte sums first, once for all rows, then pairs of them times pairs of activations.
impl Kernel for Int8<'_, Pairs> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for_bits!(self.bits, K => self.halves::<L, K>(lanes))
    }
}

impl Int8<'_, Singles<u32>> {
    #[inline(always)]
    fn bytes<L: Lanes, const K: usize>(self, lanes: L) {
        let blocks = self.tiles.blocks;
        let stride = TILE * self.tiles.columns.len();
        let mut rings = [const { Ring::new() }; BLOCK_TILES];
        for block in 0..blocks {
            for i in 0..self.tiles.columns.len() {
                let column = self.tiles.column::<L, K>(lanes, block, i, &mut rings);
                for_rows!(self.rows, L::ROWS.min(BYTE_ROWS), (row, R) => {
                    let at = row * blocks + block;
                    let sums = byte_sums::<L, K, R>(lanes, &column, &self.x.blocks[at..], blocks);
                    let out = &mut self.out[row * stride + TILE * i..];
                    add(lanes, sums, &self.x.scales[at..], blocks, out, stride);
                });
            }
        }
    }
}

impl Int8<'_, Pairs> {
    #[inline(always)]
    fn halves<L: Lanes, const K: usize>(self, lanes: L) {
        let blocks = self.tiles.blocks;
        let stride = TILE * self.tiles.columns.len();
        let mut rings = [const { Ring::new() }; BLOCK_TILES];
        let mut weights = Aligned([[[0; LANES]; GROUPS]; 2 * BLOCK_TILES]);
        for block in 0..blocks {
            for i in 0..self.tiles.columns.len() {
                let column = self.tiles.column::<L, K>(lanes, block, i, &mut rings);
                decode::<L, K>(lanes, &column, &mut weights);
                for_rows!(self.rows, L::ROWS, (row, R) => {
                    let at = row * blocks + block;
                    let sums = half_sums::<L, R>(lanes, &weights, &self.x.blocks[at..], blocks);
                    let out = &mut self.out[row * stride + TILE * i..];
                    add(lanes, sums, &self.x.scales[at..], blocks, out, stride);
                });
            }
        }
    }
}

/// Byte sums of one column of a block, in the order in which they meet activations, those of neighbouring tile rows as
/// the halves of a lane: tile, pair of vectors, group.
type Decoded = Aligned<[[[u32; LANES]; GROUPS]; 2 * BLOCK_TILES]>;

#[inline(always)]
fn decode<L: Lanes, const K: usize>(lanes: L, column: &Column<'_>, weights: &mut Decoded) {
    let (tiles, _) = weights.0.as_chunks_mut::<2>();
    for (t, tile) in tiles.iter_mut().enumerate() {
        column.prefetch::<K>(t);
        for g in 0..GROUPS {
            let group = column.group::<L, K>(lanes, t, g);
            for pair in 0..2 {
                let first = lanes.products::<K>(group, 2 * pair, MUL1_MULTIPLIER);
                let second = lanes.products::<K>(group, 2 * pair + 1, MUL1_MULTIPLIER);
                let high = lanes.shift_up(lanes.byte_sums(lanes.splat(0), second));
                lanes.store(lanes.byte_sums(high, first), &mut tile[pair][g]);
            }
        }
    }
}

/// `Σ activation · byte sum` over one column of a block, for `R` rows, `stride` blocks apart.
#[inline(always)]
fn byte_sums<L: Lanes, const K: usize, const R: usize>(
    lanes: L,
    column: &Column<'_>,
    x: &[Singles<u32>],
    stride: usize,
) -> [L::Ints; R] {
    let mut sums = [[lanes.splat(0); GROUPS]; R];
    for tile in 0..BLOCK_TILES {
        column.prefetch::<K>(tile);
        for g in 0..GROUPS {
            let group = column.group::<L, K>(lanes, tile, g);
            for vector in 0..4 {
                let products = lanes.products::<K>(group, vector, MUL1_MULTIPLIER);
                for r in 0..R {
                    let x = lanes.load_twice(&x[r * stride].0[4 * tile + vector]);
                    sums[r][g] = lanes.dot_bytes(sums[r][g], products, x);
                }
            }
        }
    }
    let mut folded = [lanes.splat(0); R];
    for r in 0..R {
        folded[r] = lanes.fold(sums[r]);
    }
    folded
}

/// [`byte_sums`] of decoded weights.
#[inline(always)]
fn half_sums<L: Lanes, const R: usize>(
    lanes: L,
    weights: &Decoded,
    x: &[Pairs],
    stride: usize,
) -> [L::Ints; R] {
    let mut sums = [[lanes.splat(0); GROUPS]; R];
    for (at, weights) in weights.0.iter().enumerate() {
        for r in 0..R {
            let x = lanes.load_twice(&x[r * stride].0[at]);
            for g in 0..GROUPS {
                sums[r][g] = lanes.dot_halves(sums[r][g], lanes.load(&weights[g]), x);
            }
        }
    }
    let mut folded = [lanes.splat(0); R];
    for r in 0..R {
        folded[r] = lanes.fold(sums[r]);
    }
    folded
}

/// Adds scaled sums of `R` rows to outputs that are `out_stride` apart.
#[inline(always)]
fn add<L: Lanes, const R: usize>(
    lanes: L,
    sums: [L::Ints; R],
    scales: &[f32],
    stride: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    for r in 0..R {
        let out = tile_outputs(out, r * out_stride);
        // Multiplied and added in two steps, so that no instruction set rounds otherwise than another.
        let scale = lanes.splat_float(scales[r * stride]);
        let scaled = lanes.mul_floats(lanes.convert(sums[r]), scale);
        lanes.store_floats(lanes.add_floats(lanes.load_floats(out), scaled), out);
    }
}
