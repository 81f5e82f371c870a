//! Input and output scales of older files.

use half::f16;

/// The scales that a legacy sign bitfield (`su`, `sv`) stands for: bit `i` of word `w` is channel `16 w + i`, set for
/// −1.
pub fn expand_signs(words: &[u16]) -> Vec<f16> {
    let sign = |word: u16, bit: u32| {
        if word >> bit & 1 == 0 {
            f16::ONE
        } else {
            f16::NEG_ONE
        }
    };
    words
        .iter()
        .flat_map(|&word| (0..16).map(move |bit| sign(word, bit)))
        .collect()
}
