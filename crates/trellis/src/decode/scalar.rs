use crate::{Bits, Codebook, TILE_WEIGHTS, tile};

/// [`decode_tile`](super::decode_tile) one weight at a time, straight from the definitions of the format: what every
/// faster decoder must equal to the bit.
///
/// # Panics
/// If `words` is not [`Bits::words_per_tile`] long.
pub fn decode_tile_scalar(
    words: &[u16],
    bits: Bits,
    codebook: Codebook,
    out: &mut [f32; TILE_WEIGHTS],
) {
    let states = tile::unpack_states(words, bits);
    for (&state, &place) in states.iter().zip(&tile::ROW_MAJOR) {
        out[usize::from(place)] = codebook.value(state).to_f32();
    }
}
