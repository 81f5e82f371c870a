// Eight weights of a row: bfloat16.

fn two(word: u32) -> vec2<f32> {
    return vec2<f32>(bitcast<f32>(word << 16u), bitcast<f32>(word & 0xFFFF0000u));
}

fn eight(store: Store, output: u32, chunk: u32) -> Eight {
    let at = store.codes + 4u * (output * p.blocks + chunk);
    return Eight(
        vec4<f32>(two(weights[at]), two(weights[at + 1u])),
        vec4<f32>(two(weights[at + 2u]), two(weights[at + 3u])),
    );
}
