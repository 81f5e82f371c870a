// Numbers as half precision has them, in f32: rounded by arithmetic, for how devices convert is theirs to choose.

// `x` to the nearest value of half precision, to even ones between two; what is too large stays too large.
fn rounded_to_half(x: f32) -> f32 {
    // The least step there is, below 2^-14.
    const STEP = 5.9604645e-8;
    if abs(x) < 6.1035156e-5 {
        return round(x / STEP) * STEP;
    }
    let bits = bitcast<u32>(x);
    return bitcast<f32>((bits + 0xfffu + (bits >> 13u & 1u)) & 0xffffe000u);
}

// A scale fitted in place of `before`, which stays if it is zero, or `x` nothing that half precision has.
fn fitted(before: f32, x: f32) -> f32 {
    let half = rounded_to_half(x);
    // Not so for what is no number.
    if abs(half) <= 65504.0 && before != 0.0 {
        return half;
    }
    return before;
}
