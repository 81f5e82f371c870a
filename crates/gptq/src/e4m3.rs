//! Eight-bit floats with four bits of exponent and three of significand, finite but for one NaN (E4M3FN).

/// The largest magnitude.
pub const MAX: f32 = 448.0;

/// The byte of [`MAX`].
pub const MAX_BYTE: u8 = 0x7E;

/// What a byte stands for.
#[inline]
pub fn decode(byte: u8) -> f32 {
    VALUES[usize::from(byte)]
}

/// Whether a byte is NaN, of either sign.
#[inline]
pub fn is_nan(byte: u8) -> bool {
    byte & 0x7F == 0x7F
}

/// The byte nearest to `x`, ties to even, subnormals kept. Beyond ±448 it saturates, infinities too; NaN stays NaN.
#[inline]
pub fn encode(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    if x.is_nan() {
        return sign | 0x7F;
    }
    let a = x.abs().min(MAX);
    // Below 2^−6 the step is that of the smallest normal numbers, 2^−9.
    let exponent = (a.to_bits() >> 23).max(127 - 6);
    // 1.5 · 2²³ steps: the sum has no bits below one step, so adding rounds to nearest, ties to even.
    let rounder = f32::from_bits((exponent - 3 + 23) << 23 | 1 << 22);
    let rounded = (a + rounder).to_bits() - rounder.to_bits();
    // 0 to 16 steps, 8 or more if normal: a carry past 15 moves into the exponent, the hidden bit out of it.
    sign | (((exponent - (127 - 6)) << 3) + rounded) as u8
}

/// What the bytes stand for.
pub static VALUES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (exponent, significand) = ((byte >> 3 & 15) as u32, (byte & 7) as u32);
        let magnitude = match (exponent, significand) {
            (15, 7) => f32::NAN,
            // 2^−9, put together from its exponent.
            (0, _) => significand as f32 * f32::from_bits((127 - 9) << 23),
            _ => f32::from_bits((exponent + 127 - 7) << 23 | significand << 20),
        };
        values[byte] = if byte < 128 { magnitude } else { -magnitude };
        byte += 1;
    }
    values
};
