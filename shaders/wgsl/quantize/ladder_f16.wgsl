// Scales in half precision.

fn rung_of(ideal: f32, absmax: f32) -> u32 {
    let bits = bitcast<u32>(ideal);
    // To nearest, ties to even: of what is normal in half precision, and of multiples of 2^-24.
    let normal = ((bits + 0xfffu + (bits >> 13u & 1u)) >> 13u) - (112u << 10u);
    let rung = select(u32(round(ideal * 16777216.0)), normal, bits >= 113u << 23u);
    return select(rung, 0x3c00u, rung == 0u);
}

fn value_of(rung: u32) -> f32 {
    return unpack2x16float(rung).x;
}
