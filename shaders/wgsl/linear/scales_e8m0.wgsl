// The scale of a group: e8m0.

//!use linear/zeros

fn scale_of(store: Store, group: u32) -> f32 {
    let code = byte_at(store.scales, group);
    // 2^-127 is half of the smallest power that has bits of its own.
    let power = select(bitcast<f32>(max(code, 1u) << 23u), 0.5 * bitcast<f32>(1u << 23u), code == 0u);
    return store.factor * power;
}
