//! Powers of two in a byte, `2^(byte − 127)`; 255 is NaN (OCP MX 1.0).

use crate::MxRule;

/// What a byte stands for.
#[inline]
pub fn decode(byte: u8) -> f32 {
    match byte {
        255 => f32::NAN,
        0 => f32::from_bits(1 << 22),
        exponent => f32::from_bits(u32::from(exponent) << 23),
    }
}

/// The scale's byte for a group of E2M1 whose largest magnitude is `a`, finite.
///
/// [`MxRule::FpQuant`] means a byte that is divided by 3 later.
pub fn from_absmax(a: f32, rule: MxRule) -> u8 {
    let bits = a.abs().max(f32::MIN_POSITIVE).to_bits();
    let exponent = |bits: u32| (bits >> 23) as i32;
    let byte = match rule {
        MxRule::Ocp => exponent(bits) - 2,
        // A significand of 1.75 or more carries into the exponent.
        MxRule::CompressedTensors => exponent(bits + (1 << 21)) - 2,
        MxRule::FpQuant => exponent(bits),
    };
    byte.clamp(0, 254) as u8
}
