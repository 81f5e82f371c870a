//! How one tile is laid out: the walk's bits in memory, and its steps over the 16×16 weights.
//!
//! A tile is a closed walk of 256 states through the trellis, `s[i+1] = (s[i] << K | new bits) mod 2¹⁶`, also from the
//! last state to the first. It is stored as a ring of `256 K` bits: step `i` owns bits `iK..(i+1)K`, and its state is the
//! 16 bits that end there. Bit `b` of the ring is bit `31 − b mod 32` of 32-bit word `b / 32`, little-endian.

use crate::{Bits, TILE, TILE_WEIGHTS};

/// `ROW_MAJOR[i]` is `16 row + column` of the weight at trellis position `i`.
///
/// Position `8 t + j` is element `j` of lane `t` in the operand layout of a 16×8×16 matrix instruction: rows are the
/// input axis, columns the output axis.
pub const ROW_MAJOR: [u8; TILE_WEIGHTS] = {
    let mut map = [0; TILE_WEIGHTS];
    let mut i = 0;
    while i < TILE_WEIGHTS {
        let (lane, j) = (i / 8, i % 8);
        let row = 2 * (lane % 4) + j % 2 + 8 * (j / 2 % 2);
        let column = lane / 4 + 8 * (j / 4);
        map[i] = (TILE * row + column) as u8;
        i += 1;
    }
    map
};

/// A row-major tile (`16 row + column`) in trellis order.
pub fn to_trellis_order<T: Copy>(tile: &[T; TILE_WEIGHTS]) -> [T; TILE_WEIGHTS] {
    std::array::from_fn(|i| tile[usize::from(ROW_MAJOR[i])])
}

/// A tile in trellis order as a row-major one: the inverse of [`to_trellis_order`].
pub fn to_row_major<T: Copy + Default>(positions: &[T; TILE_WEIGHTS]) -> [T; TILE_WEIGHTS] {
    let mut tile = [T::default(); TILE_WEIGHTS];
    for (&value, &place) in positions.iter().zip(&ROW_MAJOR) {
        tile[usize::from(place)] = value;
    }
    tile
}

/// Packs a closed walk into the words of one tile. Only the low `K` bits of each state are stored, so a walk that is not
/// [closed](is_closed_walk) does not come back.
///
/// # Panics
/// If `words` is not [`Bits::words_per_tile`] long.
pub fn pack_states(states: &[u16; TILE_WEIGHTS], bits: Bits, words: &mut [u16]) {
    check_len(words, bits);
    let k = bits.get();
    let (mut pending, mut filled, mut element) = (0u32, 0, 0);
    for &state in states {
        pending = pending << k | u32::from(state) & ((1 << k) - 1);
        filled += k;
        if filled >= 16 {
            filled -= 16;
            // 32-bit words start with their high half.
            words[element ^ 1] = (pending >> filled) as u16;
            element += 1;
        }
    }
}

/// The states of one packed tile, in trellis order.
///
/// # Panics
/// If `words` is not [`Bits::words_per_tile`] long.
pub fn unpack_states(words: &[u16], bits: Bits) -> [u16; TILE_WEIGHTS] {
    check_len(words, bits);
    let k = bits.get();
    let ring = 8 * k;
    let word = |w: usize| u64::from(words[2 * w + 1]) << 16 | u64::from(words[2 * w]);
    std::array::from_fn(|i| {
        let end = (i + 1) * k;
        let last = (end - 1) / 32;
        let first = (32 * ring + end - 16) / 32 % ring;
        ((word(first) << 32 | word(last)) >> (32 * (last + 1) - end)) as u16
    })
}

/// Whether each state follows from the one before it, the first from the last.
pub fn is_closed_walk(states: &[u16; TILE_WEIGHTS], bits: Bits) -> bool {
    let k = bits.get();
    (0..TILE_WEIGHTS).all(|i| {
        let next = states[(i + 1) % TILE_WEIGHTS];
        states[i] << k >> k == next >> k
    })
}

fn check_len(words: &[u16], bits: Bits) {
    let expected = bits.words_per_tile();
    assert_eq!(
        words.len(),
        expected,
        "a tile of {bits} bits per weight is {expected} words"
    );
}
