// Eight weights of a row: f16.

fn eight(store: Store, output: u32, chunk: u32) -> Eight {
    let at = store.codes + 4u * (output * p.blocks + chunk);
    return Eight(
        vec4<f32>(unpack2x16float(weights[at]), unpack2x16float(weights[at + 1u])),
        vec4<f32>(unpack2x16float(weights[at + 2u]), unpack2x16float(weights[at + 3u])),
    );
}
