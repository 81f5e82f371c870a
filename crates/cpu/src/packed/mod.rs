//! Packed linears, multiplied straight from their words: no more than 16 columns of 128 rows are ever decoded at a time.
//!
//! A packed linear is `W = diag(suh) · H · What · H · diag(svh)`. [`Rotated`] is what is left of its left: activations,
//! scaled and rotated, laid out for the lanes that weights decode into. [`Rotated::product`] multiplies them with `What`,
//! [`Rotated::multiply`] rotates and scales the result, and adds the bias.
//!
//! Both work on a range of output tiles, on the calling thread: callers share the ranges out.

/// Evaluates an expression with the bits per weight as a constant.
macro_rules! for_bits {
    ($bits:expr, $k:ident => $body:expr) => {
        for_bits!($bits, $k => $body, 1 2 3 4 5 6 7; 8)
    };
    ($bits:expr, $k:ident => $body:expr, $($some:literal)*; $last:literal) => {
        match $bits.get() {
            $($some => { const $k: usize = $some; $body })*
            _ => { const $k: usize = $last; $body }
        }
    };
}

/// Evaluates an expression for all rows, as many at a time as fit: 4, 2 or 1, as a constant.
macro_rules! for_rows {
    ($rows:expr, $fit:expr, ($row:ident, $count:ident) => $body:expr) => {
        let mut $row = 0;
        while $row < $rows {
            let left = $rows - $row;
            $row += if $fit >= 4 && left >= 4 {
                const $count: usize = 4;
                $body;
                $count
            } else if $fit >= 2 && left >= 2 {
                const $count: usize = 2;
                $body;
                $count
            } else {
                const $count: usize = 1;
                $body;
                $count
            };
        }
    };
}

mod exact;
mod input;
mod int8;
mod multiply;
mod quantized;
mod tiles;

use treillage_trellis::TILE;

pub use input::Rotated;

/// Input channels that share a Hadamard block, and a scale where activations are quantized.
const BLOCK: usize = 128;
/// Tiles along a block.
const BLOCK_TILES: usize = BLOCK / TILE;

/// What vectors are loaded from, at the start of a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Aligned<T>(T);

/// The outputs of one tile's columns, the first of them at `at`.
#[inline(always)]
fn tile_outputs(out: &mut [f32], at: usize) -> &mut [f32; TILE] {
    out[at..]
        .first_chunk_mut()
        .expect("outputs are whole tiles")
}
