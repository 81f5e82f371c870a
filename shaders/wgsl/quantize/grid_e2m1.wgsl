// Four-bit floats, ties to the even code: treillage_gptq::e2m1. They have no zero to choose.

fn round_to(x: f32, zero: f32, top: f32) -> f32 {
    let a = min(abs(x), top);
    let step = select(select(2.0, 1.0, a < 4.0), 0.5, a < 2.0);
    return sign(x) * (round(a / step) * step);
}

fn code_of(value: f32, zero: f32) -> u32 {
    let a = abs(value);
    // Through the eight magnitudes runs a curve of three lines, of which the lowest counts.
    let magnitude = min(min(a + a, a + 2.0), 0.5 * a + 4.0);
    return u32(magnitude) | select(0u, 8u, value < 0.0);
}
