// Eight weights of a row: nibbles that count from a zero point, with a scale per group.
//
// constants  MIDDLE: the zero point where none is stored; GROUP: weights that share a scale, a multiple of 8

//!use linear/scales_{{SCALES}}

fn eight(store: Store, output: u32, chunk: u32) -> Eight {
    let word = weights[store.codes + output * p.blocks + chunk];
    let group = output * (p.blocks / ({{GROUP}}u / 8u)) + chunk / ({{GROUP}}u / 8u);
    let scale = scale_of(store, group);
    let zero = zero_of(store, group, {{MIDDLE}}.0);
    let low = vec4<u32>(word, word >> 4u, word >> 8u, word >> 12u) & vec4<u32>(15u);
    let high = vec4<u32>(word >> 16u, word >> 20u, word >> 24u, word >> 28u) & vec4<u32>(15u);
    return Eight(scale * (vec4<f32>(low) - zero), scale * (vec4<f32>(high) - zero));
}
