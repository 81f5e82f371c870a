// Eight weights of a row: FP4 (a sign, two bits of exponent, one of mantissa), with a scale per group.
//
// constants  GROUP: weights that share a scale, a multiple of 8; MIDDLE: of no use here

//!use linear/scales_{{SCALES}}

// Twice the value.
fn fp4(code: u32) -> f32 {
    // A nibble for each magnitude: 0, 1, 2, 3, 4, 6, 8, 12.
    let magnitude = f32((0xC8643210u >> (4u * (code & 7u))) & 15u);
    return select(magnitude, -magnitude, (code & 8u) != 0u);
}

fn eight(store: Store, output: u32, chunk: u32) -> Eight {
    let word = weights[store.codes + output * p.blocks + chunk];
    let group = output * (p.blocks / ({{GROUP}}u / 8u)) + chunk / ({{GROUP}}u / 8u);
    let scale = (0.5 + 0.0 * {{MIDDLE}}.0) * scale_of(store, group);
    return Eight(
        scale * vec4<f32>(fp4(word), fp4(word >> 4u), fp4(word >> 8u), fp4(word >> 12u)),
        scale * vec4<f32>(fp4(word >> 16u), fp4(word >> 20u), fp4(word >> 24u), fp4(word >> 28u)),
    );
}
