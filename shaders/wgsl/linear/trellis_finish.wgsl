// Outputs from what linear/matmul left: splits are added up in order, rotated, scaled; bias and residual are added.
//
// bindings   weights: u32; x: f32 `[splits, ROWS groups, 128 column blocks]`; picks (linear/route_…); residual, out0: f32
// grid       x: column blocks, from `p.first` on; z: groups of ROWS rows
// constants  ROUTE; ROWS: as in linear/matmul; TEAMS: teams of 32 lanes, LANES = 32 TEAMS; EXCHANGE; the rest is text from
//            `trellis/whole.rs`

//!use linear/params
//!use linear/team

{{BINDINGS}}

fn halves(first: u32, second: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(weights[first]), unpack2x16float(weights[second]));
}

//!use linear/finish

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
    let ends = ends_of(place, lane);
    let width = 128u * groups.x;
    // Rows are a multiple of teams.
    for (var r = at >> 5u; r < ROWS; r += {{TEAMS}}u) {
        var y = vec4<f32>();
        for (var split = 0u; split < p.splits; split += 1u) {
            let here = ((split * groups.z + group.z) * ROWS + r) * width + 128u * group.x + 4u * lane;
            y += vec4<f32>(x[here], x[here + 1u], x[here + 2u], x[here + 3u]);
        }
        finish(place, ends, r, y, at);
    }
}
