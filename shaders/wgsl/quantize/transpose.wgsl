// A matrix turned over.
//
// bindings   0 matrix: f32 [rows, columns]; 1 out: f32 [columns, rows]
// grid       x: ceil(columns / 16); y: ceil(rows / 16)

struct Params {
    rows: u32,
    columns: u32,
}

@group(0) @binding(0) var<storage, read> matrix: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

var<workgroup> tile: array<f32, 272>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = lane / 16u;
    let column = lane % 16u;
    let from_row = 16u * group.y + row;
    let from_column = 16u * group.x + column;
    if from_row < p.rows && from_column < p.columns {
        tile[17u * row + column] = matrix[from_row * p.columns + from_column];
    }
    workgroupBarrier();
    let to_row = 16u * group.x + row;
    let to_column = 16u * group.y + column;
    if to_row < p.columns && to_column < p.rows {
        out[to_row * p.rows + to_column] = tile[17u * column + row];
    }
}
