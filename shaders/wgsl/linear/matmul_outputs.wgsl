// Outputs from what linear/matmul and linear/trellis_matmul left: splits are added up in order, rotated back, scaled; bias and residual
// are added.
//
// bindings   weights: u32; x: f32 `[splits, ROWS groups, 128 column blocks]`; picks (linear/route_…); residual, out0: f32
// grid       x: column blocks, from `p.first` on; z: groups of ROWS rows
// constants  ROUTE; ROWS: as in linear/matmul; TEAMS: teams of 32 lanes, LANES = 32 TEAMS; BASIS: rotated | plain; with
//            rotated, EXCHANGE; the rest is text from `matmul/ends.rs`

//!use linear/params

{{BINDINGS}}

//!use linear/finish_{{BASIS}}

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
