// The scale of a group: e4m3.

//!use linear/zeros

fn scale_of(store: Store, group: u32) -> f32 {
    let code = byte_at(store.scales, group);
    let mantissa = f32(code & 7u);
    let exponent = (code >> 3u) & 15u;
    // Powers of two by their bits; exponent 0 is that of 1, without the leading one.
    let power = bitcast<f32>((max(exponent, 1u) + 117u) << 23u);
    let magnitude = select(8.0, 0.0, exponent == 0u) + mantissa;
    return store.factor * select(magnitude, -magnitude, (code & 128u) != 0u) * power;
}
