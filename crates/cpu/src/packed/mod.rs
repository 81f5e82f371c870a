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

mod exact;
mod input;
mod int8;
mod multiply;
mod quantized;
mod tiles;

pub use input::Rotated;

/// Input channels that share a Hadamard block, and a scale where activations are quantized.
const BLOCK: usize = 128;
/// Tiles along a block.
const BLOCK_TILES: usize = BLOCK / treillage_trellis::TILE;

/// What vectors are loaded from, at the start of a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Aligned<T>(T);
