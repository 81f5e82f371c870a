// Eight weights of a row: bytes that count from a zero point, with a scale per group.
//
// constants  MIDDLE: the zero point where none is stored; GROUP: weights that share a scale, a multiple of 8

//!use linear/scales_{{SCALES}}

fn eight(store: Store, output: u32, chunk: u32) -> Eight {
    let at = store.codes + 2u * (output * p.blocks + chunk);
    let group = output * (p.blocks / ({{GROUP}}u / 8u)) + chunk / ({{GROUP}}u / 8u);
    let scale = scale_of(store, group);
    let zero = zero_of(store, group, {{MIDDLE}}.0);
    return Eight(
        scale * (vec4<f32>(unpack4xU8(weights[at])) - zero),
        scale * (vec4<f32>(unpack4xU8(weights[at + 1u])) - zero),
    );
}
