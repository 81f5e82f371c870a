// Matrices that are stored row by row as linear/matmul reads them: f16, without the factor of their scales, inputs in the order of
// linear/matmul_inputs.
//
// bindings   weights: u32; with ROUTE=grouped, picks: u32, of which experts without rows are not decoded; out0: f16 `[experts, column
//            blocks, inputs / 16, 8 tiles, 16 columns, 16 inputs]`, in eights
// grid       x: column blocks, from `p.first` on; y: groups of 64 inputs; z: experts
// constants  WEIGHTS, with its constants; ROUTE; ROWS: as in linear/matmul; the rest is text from `rows.rs`

//!use linear/params
//!use linear/stored

{{BINDINGS}}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    let expert = group.z;
    let header = p.headers.x + 8u * expert;
    if weights[header] != p.kind {
        return;
    }
    {{SKIP}}
    let store = stored_unscaled(header);
    let outputs = weights[header + 5u];
    // Four lanes read the 64 inputs of an output, 16 each, next to one another.
    let step = 4u * group.y + (at & 3u);
    let block = ((expert * groups.x + group.x) * 4u * groups.y + step) * 256u;
    for (var column = at >> 2u; column < 128u; column += 64u) {
        let output = 128u * (p.first + group.x) + column;
        var first = Eight();
        var second = Eight();
        if output < outputs {
            if 2u * step < p.blocks {
                first = eight(store, output, 2u * step);
            }
            if 2u * step + 1u < p.blocks {
                second = eight(store, output, 2u * step + 1u);
            }
        }
        let to = block + 2u * column;
        out0[to] = paired(first.low, second.low);
        out0[to + 1u] = paired(first.high, second.high);
    }
}

// Two inputs, the two eight further on, and the same of the next two.
fn paired(first: vec4<f32>, second: vec4<f32>) -> vec4<u32> {
    return vec4<u32>(
        pack2x16float(first.xy),
        pack2x16float(second.xy),
        pack2x16float(first.zw),
        pack2x16float(second.zw),
    );
}
