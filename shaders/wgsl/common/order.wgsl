// Floats as integers of the same order, decided bit by bit: compilers may assume away NaN.

const NOT_FINITE_EXPONENT = 0x7f800000u;

// -0 and +0 are equal; NaN is below everything.
fn order_key(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let magnitude = bits & 0x7fffffffu;
    if magnitude > NOT_FINITE_EXPONENT {
        return 0u;
    }
    if magnitude == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, magnitude != bits);
}

// NaN or +∞: what no logit may be. −∞ excludes what it stands for.
fn is_bad_logit(x: f32) -> bool {
    let bits = bitcast<u32>(x);
    return (bits & 0x7fffffffu) > NOT_FINITE_EXPONENT || bits == NOT_FINITE_EXPONENT;
}

// The float of a key; that of 0 is not a number's.
fn from_order_key(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}

// Whether no distribution has this key as its largest: NaN or +∞ was seen, which scans note as the highest key, or nothing
// above −∞ was.
fn is_bad_largest(key: u32) -> bool {
    return key >= 0xff800000u || key <= 0x007fffffu;
}
