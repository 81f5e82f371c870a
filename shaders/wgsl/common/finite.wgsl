// What is not finite on its way into a cache: it stays so, or nobody would find it. Decided bit by bit: compilers may assume away NaN.

fn is_not_finite(v: vec2<f32>) -> vec2<bool> {
    return (bitcast<vec2<u32>>(v) & vec2<u32>(0x7fffffffu)) >= vec2<u32>(0x7f800000u);
}

// Two halves. What is beyond ±65504 is cut to that, so that a cache stays finite where the input is; what is not finite is none.
fn cut_halves(v: vec2<f32>) -> u32 {
    let cut = pack2x16float(clamp(v, vec2(-65504.0), vec2(65504.0)));
    let none = select(vec2<u32>(), vec2<u32>(0x7e00u, 0x7e000000u), is_not_finite(v));
    return cut | none.x | none.y;
}

// Magnitudes, infinite where there is none, so that the largest shows it.
fn magnitudes(v: vec2<f32>) -> vec2<f32> {
    let bits = bitcast<vec2<u32>>(v) & vec2<u32>(0x7fffffffu);
    return bitcast<vec2<f32>>(min(bits, vec2<u32>(0x7f800000u)));
}
