// What linear/matmul and linear/trellis_matmul multiply with: rows of x in tiles of halves, each 16 inputs in the order of a trellis
// walk's steps (two pairs of inputs eight apart, then the next two).
//
// bindings   weights: u32; x: f32 `[rows, width]`; picks (linear/route_…); out0: f16 `[groups, inputs / 16, ROWS / 16, 16 rows, 16 inputs]`,
//            in fours
// grid       x: input blocks; z: groups of ROWS rows
// constants  ROWS: of a group, a multiple of 16; TEAMS: teams of 32 lanes, LANES = 32 TEAMS; ROUTE; BASIS:
//            rotated | plain; with rotated, EXCHANGE; the rest is text from `matmul/ends.rs`

//!use linear/params
//!use linear/activation
//!use linear/basis_{{BASIS}}

{{BINDINGS}}

@compute @workgroup_size({{LANES}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    var place: Place;
    if !locate(group, groups, &place) {
        return;
    }
    let lane = at & 31u;
    let channel = 128u * place.block + 16u * (lane >> 2u) + 2u * (lane & 3u);
    let scale = input_scale(place, channel);
    let step = (group.z * p.blocks + place.block) * 8u + (lane >> 2u);
    // Rows are a multiple of teams. Those that are not there are zero: what is beyond them is not looked at, but may not be a number.
    for (var r = at >> 5u; r < ROWS; r += {{TEAMS}}u) {
        var v = vec4<f32>();
        if place.row + r < place.end {
            v = activation(ask(place.x_row + r, channel)) * scale;
        }
        v = turned(v, at);
        let to = 4u * (ROWS * step + r) + (lane & 3u);
        out0[to] = vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));
    }
}
