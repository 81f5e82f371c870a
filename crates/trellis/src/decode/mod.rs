//! Packed words back to weights.

mod linear;
mod scalar;

pub use scalar::decode_tile_scalar;

use crate::{Bits, Codebook, TILE_WEIGHTS};

/// Decodes one packed tile into row-major order (`16 row + column`, rows along the input axis). The values are those of
/// [`Codebook::value`], exact in f32.
///
/// # Panics
/// If `words` is not [`Bits::words_per_tile`] long.
pub fn decode_tile(words: &[u16], bits: Bits, codebook: Codebook, out: &mut [f32; TILE_WEIGHTS]) {
    decode_tile_scalar(words, bits, codebook, out);
}
