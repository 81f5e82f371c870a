use treillage_trellis::lanes::{Code, GROUPS, Kernel, LANES, Lanes, Ring};
use treillage_trellis::{Bits, TILE};

use super::input::{Rows, Singles};
use super::tiles::{Column, Tiles};
use super::{Aligned, BLOCK_TILES, tile_outputs};

/// The weights of one column of a block, in the order in which they meet activations: tile, vector, group.
type Decoded = Aligned<[[[f32; LANES]; GROUPS]; 4 * BLOCK_TILES]>;

/// `out += x · What` in f32.
pub(super) struct Exact<'a, C> {
    pub(super) tiles: Tiles<'a>,
    pub(super) bits: Bits,
    pub(super) code: C,
    pub(super) x: &'a Rows<Singles<f32>>,
    pub(super) rows: usize,
    /// `[rows, 16 columns]`.
    pub(super) out: &'a mut [f32],
}

impl<C: Code> Kernel for Exact<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for_bits!(self.bits, K => self.multiply::<L, K>(lanes))
    }
}

impl<C: Code> Exact<'_, C> {
    #[inline(always)]
    fn multiply<L: Lanes, const K: usize>(self, lanes: L) {
        let blocks = self.tiles.blocks;
        let stride = TILE * self.tiles.columns.len();
        let mut rings = [const { Ring::new() }; BLOCK_TILES];
        let mut weights = Aligned([[[0.0; LANES]; GROUPS]; 4 * BLOCK_TILES]);
        for block in 0..blocks {
            for i in 0..self.tiles.columns.len() {
                let column = self.tiles.column::<L, K>(lanes, block, i, &mut rings);
                decode::<L, C, K>(lanes, self.code, &column, &mut weights);
                for_rows!(self.rows, L::ROWS, (row, R) => {
                    let x = &self.x.blocks[row * blocks + block..];
                    let out = &mut self.out[row * stride + TILE * i..];
                    multiply_rows::<L, R>(lanes, &weights, x, blocks, out, stride);
                });
            }
        }
    }
}

#[inline(always)]
fn decode<L: Lanes, C: Code, const K: usize>(
    lanes: L,
    code: C,
    column: &Column<'_>,
    weights: &mut Decoded,
) {
    let (tiles, _) = weights.0.as_chunks_mut::<4>();
    for (t, tile) in tiles.iter_mut().enumerate() {
        column.prefetch::<K>(t);
        for g in 0..GROUPS {
            let group = column.group::<L, K>(lanes, t, g);
            for vector in 0..4 {
                let values = code.values::<L, K>(lanes, group, vector);
                lanes.store_floats(values, &mut tile[vector][g]);
            }
        }
    }
}

/// Adds the products of `R` rows, `x_stride` blocks apart, to outputs that are `out_stride` apart.
#[inline(always)]
fn multiply_rows<L: Lanes, const R: usize>(
    lanes: L,
    weights: &Decoded,
    x: &[Singles<f32>],
    x_stride: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    let mut sums = [[lanes.splat_float(0.0); GROUPS]; R];
    for (at, weights) in weights.0.iter().enumerate() {
        for r in 0..R {
            let x = lanes.load_floats_twice(&x[r * x_stride].0[at]);
            for g in 0..GROUPS {
                let weights = lanes.load_floats(&weights[g]);
                sums[r][g] = lanes.mul_add(weights, x, sums[r][g]);
            }
        }
    }
    for r in 0..R {
        let out = tile_outputs(out, r * out_stride);
        let sum = lanes.add_floats(lanes.load_floats(out), lanes.fold_floats(sums[r]));
        lanes.store_floats(sum, out);
    }
}
