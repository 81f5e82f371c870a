// Sums of products, in f32, of rows and columns in tiles of half precision (see `matmul.rs`): 64 rows by 128 columns a workgroup.
//
// bindings   weights: u32, for its headers; x: f16 `[groups, inputs / 16, 4 tiles, 16 rows, 16 inputs]`, in eights without matrix units;
//            picks (linear/route_…); decoded: f16 `[experts, column blocks, inputs / 16, 8 tiles, 16 columns, 16 inputs]`, likewise;
//            out0: f32 `[splits, 64 groups, 128 column blocks]`
// grid       x: column blocks; y: splits; z: groups of 64 rows
// constants  ROUTE; ROWS: 64; PRODUCT: matrices | lanes; the rest is text from `matmul.rs`
// needs      with PRODUCT=matrices, f16, subgroups of 32 and the feature EXPERIMENTAL_COOPERATIVE_MATRIX

{{ENABLE}}

//!use linear/params

{{BINDINGS}}

//!use linear/matmul_{{PRODUCT}}

var<workgroup> has_work: u32;

@compute @workgroup_size({{LANES}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    var place: Place;
    if locate(group, groups, &place) {
        has_work = 1u;
    } else {
        has_work = 0u;
    }
    // The same for all, said so that it can be seen: matrices are multiplied by all or none.
    if workgroupUniformLoad(&has_work) == 0u {
        return;
    }
    // In steps of 16 inputs.
    let all = 8u * p.blocks;
    let first = 8u * group.y * p.per_split;
    let steps = min(8u * p.per_split, all - first);
    let rows = (group.z * all + first) * 1024u;
    let columns = ((place.expert * groups.x + group.x) * all + first) * 2048u;
    let width = 128u * groups.x;
    let to = ((group.y * groups.z + group.z) * ROWS) * width + 128u * group.x;
    multiply(rows, columns, steps, to, width, at);
}
