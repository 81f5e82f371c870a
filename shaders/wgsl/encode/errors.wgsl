// Makes errors of weights, weights[start..start + 16] -= found, and keeps what was found.
//
// Bindings: found f32 [linears · columns / 16, 256], tiles in the order of a walk; weights f32 [linears, rows, columns]; values f32
//     [linears, rows, columns].
// Grid: columns / 16, linears.

struct Params {
    rows: u32,
    columns: u32,
    start: u32,
}
var<immediate> p: Params;

//!use encode/place

@group(0) @binding(0) var<storage, read> found: array<f32>;
@group(0) @binding(1) var<storage, read_write> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Sixteen rows of sixteen columns, row by row.
    let row = lane / 16u;
    let column = lane % 16u;
    let at = (group.y * p.rows + p.start + row) * p.columns + 16u * group.x + column;
    let tile = group.y * (p.columns / 16u) + group.x;
    let value = found[tile * 256u + step_of(row, column)];
    weights[at] -= value;
    values[at] = value;
}
