//! Packing is the inverse of unpacking for every closed walk, wherever the walk is cut open.

use proptest::{collection::vec, prelude::*};
use treillage_trellis::{Bits, TILE_WEIGHTS, tile};

fn rate() -> impl Strategy<Value = Bits> {
    proptest::sample::select(Bits::all().collect::<Vec<_>>())
}

/// A rate and the words of one tile: any words are a closed walk.
fn packed() -> impl Strategy<Value = (Bits, Vec<u16>)> {
    rate().prop_flat_map(|bits| (Just(bits), vec(any::<u16>(), bits.words_per_tile())))
}

/// The walk that takes its steps' new bits from `symbols`, built from the transition rule alone.
fn walk(bits: Bits, symbols: &[u8]) -> [u16; TILE_WEIGHTS] {
    let step = |state: u16, i: usize| {
        let new = u16::from(symbols[i]) & ((1u16 << bits.get()) - 1);
        state << bits.get() | new
    };
    // Sixteen steps fill the register whatever it held, so a first round finds the state that closes the ring.
    let mut state = (0..TILE_WEIGHTS).fold(0, step);
    std::array::from_fn(|i| {
        state = step(state, i);
        state
    })
}

proptest! {
    #[test]
    fn words_come_back((bits, words) in packed()) {
        let states = tile::unpack_states(&words, bits);
        prop_assert!(tile::is_closed_walk(&states, bits));
        let mut repacked = vec![0; words.len()];
        tile::pack_states(&states, bits, &mut repacked);
        prop_assert_eq!(repacked, words);
    }

    #[test]
    fn walks_come_back(bits in rate(), symbols in vec(any::<u8>(), TILE_WEIGHTS)) {
        let states = walk(bits, &symbols);
        let mut words = vec![0; bits.words_per_tile()];
        tile::pack_states(&states, bits, &mut words);
        prop_assert_eq!(tile::unpack_states(&words, bits), states);
    }

    #[test]
    fn a_walk_has_no_seam((bits, words) in packed(), turn in 0..TILE_WEIGHTS) {
        let mut states = tile::unpack_states(&words, bits);
        states.rotate_left(turn);
        prop_assert!(tile::is_closed_walk(&states, bits));
        let mut rotated = vec![0; words.len()];
        tile::pack_states(&states, bits, &mut rotated);
        prop_assert_eq!(tile::unpack_states(&rotated, bits), states);
    }

    #[test]
    fn a_broken_step_is_noticed((bits, words) in packed(), step in 0..TILE_WEIGHTS, bit in 0u32..16) {
        let mut states = tile::unpack_states(&words, bits);
        states[step] ^= 1 << bit;
        prop_assert!(!tile::is_closed_walk(&states, bits));
    }

    #[test]
    fn tile_orders_are_inverse(tile in vec(any::<u16>(), TILE_WEIGHTS)) {
        let tile: [u16; TILE_WEIGHTS] = tile.try_into().unwrap();
        prop_assert_eq!(tile::to_row_major(&tile::to_trellis_order(&tile)), tile);
    }
}
