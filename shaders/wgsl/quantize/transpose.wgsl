// A square matrix turned over.
//
// bindings   0 matrix: f32 [n, n]; 1 out: f32 [n, n]
// grid       x, y: ceil(n / 16)

struct Params {
    n: u32,
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
    if from_row < p.n && from_column < p.n {
        tile[17u * row + column] = matrix[from_row * p.n + from_column];
    }
    workgroupBarrier();
    let to_row = 16u * group.x + row;
    let to_column = 16u * group.y + column;
    if to_row < p.n && to_column < p.n {
        out[to_row * p.n + to_column] = tile[17u * column + row];
    }
}
