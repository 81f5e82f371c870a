// Trellis-coded matrices as matrix units read them: f16, exactly as the format says, by output column, inputs in the order of
// linear/trellis_rotate.
//
// bindings   weights: u32; codes: the same in fours; with ROUTE=grouped, picks: u32, of which experts without rows are not decoded;
//            out0: f16 `[experts, 128 column blocks, 128 blocks]`, in eights
// grid       x: column blocks; y: groups of TEAMS pairs of rows of tiles; z: experts
// constants  TEAMS: teams of 32 lanes, LANES = 32 TEAMS; PAIR_FOURS: 32 K; the rest is text from `trellis/matmul.rs`

//!use linear/params

{{BINDINGS}}

@compute @workgroup_size({{LANES}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    let expert = group.z;
    let header = p.headers.x + 8u * expert;
    let lane = at & 31u;
    let pair = {{TEAMS}}u * group.y + (at >> 5u);
    if weights[header] != p.kind || pair >= 4u * p.blocks {
        return;
    }
    {{SKIP}}
    let before = (lane & 24u) | ((lane + 7u) & 7u);
    let word = weights[header + 1u] / 4u + (group.x * p.blocks * 4u + pair) * {{PAIR_FOURS}}u;
    // Of the lane's first column, in eights.
    let column = 128u * group.x + 16u * (lane >> 3u) + (lane & 7u);
    let first = (expert * groups.x * 128u + column) * p.blocks * 16u + 4u * pair;
    // Between columns.
    let stride = p.blocks * 16u;
    {{DECODE}}
}
