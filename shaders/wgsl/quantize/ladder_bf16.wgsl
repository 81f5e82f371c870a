// Scales in bfloat16.

fn rung_of(ideal: f32, absmax: f32) -> u32 {
    let bits = bitcast<u32>(ideal);
    let rung = (bits + 0x7fffu + (bits >> 16u & 1u)) >> 16u;
    return select(rung, 0x3f80u, rung == 0u);
}

fn value_of(rung: u32) -> f32 {
    return bitcast<f32>(rung << 16u);
}
