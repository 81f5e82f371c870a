// Scales in E4M3, divided by the matrix's factor: that of its largest magnitude, unless one is given.

fn factor() -> f32 {
    let largest = bitcast<f32>(state[0]);
    if p.factor > 0.0 {
        return p.factor;
    }
    return select(1.0, min(2688.0 / largest, 3.4028234e38), largest > 0.0);
}

fn rung_of(ideal: f32, absmax: f32) -> u32 {
    let a = min(ideal * factor(), 448.0);
    let exponent = max(bitcast<u32>(a) >> 23u, 121u);
    // 0 to 16 steps of an eighth of the power of two: a carry past 15 moves into the exponent.
    let steps = round(a * bitcast<f32>((254u + 3u - exponent) << 23u));
    // Byte 0 would make a group of what cannot be stored.
    return max(((exponent - 121u) << 3u) + u32(steps), 1u);
}

fn value_of(rung: u32) -> f32 {
    let normal = bitcast<f32>(((rung >> 3u) + 120u) << 23u | (rung & 7u) << 20u);
    return select(normal, f32(rung) / 512.0, rung < 8u) / factor();
}
