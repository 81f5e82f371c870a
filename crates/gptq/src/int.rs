//! Unsigned codes `u` of 2, 3, 4 or 8 bits that stand for `u − zero`.
//!
//! Values are rounded to the nearest integer, ties to even, and clipped to the codes there are.

use crate::IntBits;

/// What a code stands for.
#[inline]
pub fn decode(code: u8, zero: u8) -> f32 {
    f32::from(i16::from(code) - i16::from(zero))
}

/// The code of the value nearest to `x`. NaN becomes the lowest.
#[inline(always)]
pub fn encode(x: f32, zero: u8, bits: IntBits) -> u8 {
    let [low, high] = range(zero, bits);
    // The last bits of the sum are the integer; what they carry above eight goes with the cast.
    let sum = (x.max(low).min(high) + ROUNDER).to_bits();
    (sum as u8).wrapping_add(zero)
}

/// The integer nearest to `x` between `low` and `high`, themselves integers of less than 22 bits. NaN becomes `low`.
#[inline(always)]
pub fn round(x: f32, low: f32, high: f32) -> f32 {
    // The sum has no bits below 1: adding rounds to nearest, ties to even.
    (x.max(low).min(high) + ROUNDER) - ROUNDER
}

/// The least and the greatest value that codes of this width can stand for.
#[inline(always)]
pub fn range(zero: u8, bits: IntBits) -> [f32; 2] {
    let low = -f32::from(zero);
    [low, low + (bits.levels() - 1) as f32]
}

/// `1.5 · 2²³`, whose last bit is worth 1.
const ROUNDER: f32 = 12_582_912.0;
