// Trellis-coded matrices as linear/matmul reads them: f16, exactly as the format says, inputs in the order of linear/matmul_inputs.
//
// bindings   weights: u32; codes: the same in fours; with ROUTE=grouped, picks: u32, of which experts without rows are not decoded;
//            out0: f16 `[experts, column blocks, inputs / 16, 8 tiles, 16 columns, 16 inputs]`, in eights
// grid       x: column blocks, from `p.first` on; y: groups of TEAMS pairs of rows of tiles; z: experts
// constants  TEAMS: teams of 32 lanes, LANES = 32 TEAMS; PAIR_FOURS: 32 K; the rest is text from `trellis/whole.rs`

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
    let flip = weights[header + 7u];
    let word = weights[header + 1u] / 4u + ((p.first + group.x) * p.blocks * 4u + pair) * {{PAIR_FOURS}}u;
    // Of the lane's first column, in eights.
    let step = (expert * groups.x + group.x) * p.blocks * 8u + 2u * pair;
    let first = 256u * step + 32u * (lane >> 3u) + 2u * (lane & 7u);
    {{DECODE}}
}
