// What trellis matrices are multiplied with by matrix units: `x · diag(suh) · H` in f16, each 16 inputs in the order of a walk's steps
// (two pairs of rows, then the next two).
//
// bindings   weights: u32; x: f32 `[rows, width]`; picks (linear/route_…); out0: f16 `[rows, 128 blocks]`, in pairs
// grid       x: input blocks; z: groups of rows
// constants  ROWS: of a workgroup; TEAMS: teams of 32 lanes, LANES = 32 TEAMS; ROUTE; EXCHANGE; the rest is text from `trellis.rs`

//!use linear/params
//!use linear/team
//!use linear/activation

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
    let suh = weights[place.header + 2u] + channel / 2u;
    let scale = halves(suh, suh + 4u);
    for (var r = at >> 5u; r < {{ROWS_UP}}u; r += {{TEAMS}}u) {
        var v = vec4<f32>();
        let live = r < ROWS && place.row + r < place.end;
        if live {
            v = activation(place.x_row + r, channel) * scale;
        }
        v = rotate(v, at);
        if live {
            let to = ((place.row + r) * p.blocks + place.block) * 32u + lane;
            out0[to] = vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));
        }
    }
}
