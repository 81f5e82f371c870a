// Eight weights of a row: f32.

fn eight(store: Store, output: u32, chunk: u32) -> Eight {
    let at = store.codes + 8u * (output * p.blocks + chunk);
    return Eight(
        vec4<f32>(
            bitcast<f32>(weights[at]),
            bitcast<f32>(weights[at + 1u]),
            bitcast<f32>(weights[at + 2u]),
            bitcast<f32>(weights[at + 3u]),
        ),
        vec4<f32>(
            bitcast<f32>(weights[at + 4u]),
            bitcast<f32>(weights[at + 5u]),
            bitcast<f32>(weights[at + 6u]),
            bitcast<f32>(weights[at + 7u]),
        ),
    );
}
