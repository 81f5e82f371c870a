//! Four-bit floats: one sign bit, two of exponent, one of significand (OCP MX 1.0, "FP4").
//!
//! Values are rounded to nearest, ties to the even code, and saturate. What is rounded away becomes +0, so that files
//! do not depend on the sign of what was lost.

/// What the codes 0 to 7 stand for; bit 3 is the sign.
pub const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The largest magnitude.
pub const MAX: f32 = 6.0;

/// What a code stands for; its high nibble is ignored.
#[inline]
pub fn decode(code: u8) -> f32 {
    VALUES[usize::from(code & 15)]
}

/// What the sixteen codes stand for.
pub const VALUES: [f32; 16] = {
    let mut values = [0.0; 16];
    let mut code = 0;
    while code < 8 {
        values[code] = MAGNITUDES[code];
        values[code + 8] = -MAGNITUDES[code];
        code += 1;
    }
    values
};

/// The code of the value nearest to `x`. NaN becomes 0.
#[inline(always)]
pub fn encode(x: f32) -> u8 {
    let a = x.abs();
    // A tie goes to its even neighbour: below codes 1, 3, 5 and 7 that is the lower one.
    let magnitude = u8::from(a > 0.25)
        + u8::from(a >= 0.75)
        + u8::from(a > 1.25)
        + u8::from(a >= 1.75)
        + u8::from(a > 2.5)
        + u8::from(a >= 3.5)
        + u8::from(a > 5.0);
    magnitude | u8::from(x < 0.0 && magnitude > 0) << 3
}

/// The value nearest to `x`: [`decode`] of [`encode`] but for the sign of zero, and fit for vectors. NaN becomes ±6.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    let a = x.abs().min(MAX);
    // The sum has no bits below one step, a half, one or two: adding rounds to nearest, ties to even.
    let large = if a < 4.0 { ROUNDER } else { 2.0 * ROUNDER };
    let large = if a < 2.0 { 0.5 * ROUNDER } else { large };
    ((a + large) - large).copysign(x)
}

/// `1.5 · 2²³`, whose last bit is worth 1.
const ROUNDER: f32 = 12_582_912.0;
