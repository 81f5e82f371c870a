// Powers of two, divided by a factor. How they come from the largest magnitude: what carries into its exponent, and how far below it
// they are.

fn rung_of(ideal: f32, absmax: f32) -> u32 {
    let exponent = (max(bitcast<u32>(absmax), 1u << 23u) + p.carry) >> 23u;
    return min(max(exponent, p.below) - p.below, 254u);
}

fn value_of(rung: u32) -> f32 {
    return select(bitcast<f32>(rung << 23u), bitcast<f32>(1u << 22u), rung == 0u) / p.factor;
}
