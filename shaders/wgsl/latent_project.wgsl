// out[r, h] = x[r, h] · W[h] for many rows: each head's part of a row times the head's matrix, 64 rows by 64 columns a workgroup.
//
// bindings   0 x: f32, value i of row r and head h at r·x_row + h·x_head + i; 1 W: f16 [heads, inputs, 4 quads], in fours; 2 out: f32,
//            column c likewise, at r·out_row + h·out_head + c
// grid       x: quads / 16; y: ceil(rows / 64); z: heads; workgroups of 256 lanes
// scalars    columns ≤ 4 quads: what is written; quads is a multiple of 16

struct Params {
    rows: u32,
    inputs: u32,
    columns: u32,
    quads: u32,
    x_row: u32,
    x_head: u32,
    out_row: u32,
    out_head: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> matrices: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

// Inputs staged at once.
const STEP = 16u;

// [input][row], and [input][four columns].
var<workgroup> rows_staged: array<f32, STEP * 64u>;
var<workgroup> columns_staged: array<vec4<f32>, STEP * 16u>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.z;
    let first = 64u * group.y;
    // This lane's four columns, and its first of four rows.
    let quad = lane % 16u;
    let row = lane / 16u * 4u;
    var sums: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i += 1u) {
        sums[i] = vec4(0.0);
    }
    for (var base = 0u; base < p.inputs; base += STEP) {
        workgroupBarrier();
        for (var i = lane; i < STEP * 64u; i += 256u) {
            let input = base + i % STEP;
            let r = first + i / STEP;
            var value = 0.0;
            if input < p.inputs && r < p.rows {
                value = x[r * p.x_row + head * p.x_head + input];
            }
            rows_staged[i % STEP * 64u + i / STEP] = value;
        }
        var words = vec2(0u);
        if base + lane / 16u < p.inputs {
            let input = head * p.inputs + base + lane / 16u;
            words = matrices[input * p.quads + 16u * group.x + quad];
        }
        columns_staged[lane] = vec4(unpack2x16float(words.x), unpack2x16float(words.y));
        workgroupBarrier();
        for (var k = 0u; k < STEP; k += 1u) {
            let column = columns_staged[k * 16u + quad];
            let at = k * 64u + row;
            sums[0] += rows_staged[at] * column;
            sums[1] += rows_staged[at + 1u] * column;
            sums[2] += rows_staged[at + 2u] * column;
            sums[3] += rows_staged[at + 3u] * column;
        }
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let r = first + row + i;
        for (var c = 0u; c < 4u; c += 1u) {
            let column = 64u * group.x + 4u * quad + c;
            if r < p.rows && column < p.columns {
                out[r * p.out_row + head * p.out_head + column] = sums[i][c];
            }
        }
    }
}
