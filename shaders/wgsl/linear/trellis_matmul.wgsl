// The product of what linear/trellis_rotate and linear/trellis_decode wrote, in f32, by cooperative matrices of 16 × 16 × 16: four
// subgroups of 32 make 64 rows of 128 columns, each 64 rows of 32. There is a twin without matrices, for tests.
//
// Matrices are read from and written to buffers, never through workgroup memory: naga declares the Vulkan memory model for them, under
// which its plain loads and stores are not seen by other invocations.
//
// bindings   weights: u32, for its headers; x: f16 `[rows + 64, 128 blocks]`; picks (linear/route_…); decoded: f16 as linear/trellis_decode
//            leaves it; out0: f32 `[64 groups, 128 column blocks]`
// grid       x: column blocks; y: splits; z: groups of 64 rows
// constants  ROUTE; ROWS: 64; the rest is text from `trellis/matmul.rs`
// needs      f16; with matrices, subgroups of 32 and the feature EXPERIMENTAL_COOPERATIVE_MATRIX

enable f16;
{{ENABLE}}

//!use linear/params

{{BINDINGS}}

var<workgroup> has_work: u32;

@compute @workgroup_size(128)
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
    let team = at >> 5u;
    let stride = 128u * p.blocks;
    let first = 128u * group.y * p.per_split;
    let end = min(first + 128u * p.per_split, stride);
    var a = place.row * stride + first;
    var b = ((place.expert * groups.x + group.x) * 128u + {{COLUMN}}) * stride + first;
    let width = 128u * groups.x;
    let to = ((group.y * groups.z + group.z) * ROWS) * width + 128u * group.x + {{COLUMN}};

    {{ACCUMULATORS}}
    for (var k = first; k < end; k += 16u) {
        {{MULTIPLY}}
        a += 16u;
        b += 16u;
    }
    {{STORE_SUMS}}
}
