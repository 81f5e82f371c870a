//! Every instruction set decodes to the values that the format's definitions give, bit for bit.

use proptest::{collection::vec, prelude::*};
use treillage_trellis::{
    Bits, Codebook, TILE_WEIGHTS,
    decode::{decode_tile_scalar, decode_tile_with},
    lanes::Isa,
    tile,
};

/// Whether all instruction sets of this machine agree with the definitions on one tile.
fn agree(words: &[u16], bits: Bits, codebook: Codebook) -> Result<(), TestCaseError> {
    let mut expected = [0.0; TILE_WEIGHTS];
    decode_tile_scalar(words, bits, codebook, &mut expected);
    for isa in Isa::available() {
        let mut tile = [f32::NAN; TILE_WEIGHTS];
        decode_tile_with(isa, words, bits, codebook, &mut tile);
        let level = isa.level().name();
        prop_assert_eq!(
            tile.map(f32::to_bits),
            expected.map(f32::to_bits),
            "{}, K = {}, {}",
            level,
            bits,
            codebook
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_words_decode_alike(words in vec(any::<u16>(), Bits::MAX.words_per_tile())) {
        for bits in Bits::all() {
            for codebook in Codebook::ALL {
                agree(&words[..bits.words_per_tile()], bits, codebook)?;
            }
        }
    }
}

#[test]
fn every_state_decodes_alike() {
    // At 8 bits a walk may visit any state at every second step.
    let bits = Bits::MAX;
    let mut words = vec![0; bits.words_per_tile()];
    let every_state: Vec<u16> = (0..=u16::MAX).collect();
    for odd in every_state.chunks(TILE_WEIGHTS / 2) {
        let mut states = [0; TILE_WEIGHTS];
        for (pair, &state) in states.chunks_exact_mut(2).zip(odd) {
            pair[1] = state;
        }
        tile::pack_states(&close(states), bits, &mut words);
        for codebook in Codebook::ALL {
            agree(&words, bits, codebook).unwrap();
        }
    }
}

/// Fills in the even steps of an 8-bit walk: each takes its high byte from the step before and its low byte from the
/// high byte of the step after.
fn close(mut states: [u16; TILE_WEIGHTS]) -> [u16; TILE_WEIGHTS] {
    for step in (0..TILE_WEIGHTS).step_by(2) {
        let before = states[(step + TILE_WEIGHTS - 1) % TILE_WEIGHTS];
        states[step] = before << 8 | states[step + 1] >> 8;
    }
    states
}
