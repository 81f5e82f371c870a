// The second moment of rows: out = scale · Σ x xᵀ, both triangles, of which one is computed.
//
// bindings   0 x: f32 [rows, width]; 1 out: f32 [width, width]
// grid       x, y: ceil(width / 64)

struct Params {
    rows: u32,
    width: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

const BY_DEPTH = false;

//!use quantize/lower

fn left(row: u32, k: u32) -> f32 {
    return right(k, row);
}

fn right(k: u32, column: u32) -> f32 {
    if k < p.rows && column < p.width {
        return x[k * p.width + column];
    }
    return 0.0;
}

fn put(row: u32, column: u32, value: f32) {
    if row < p.width {
        out[row * p.width + column] = p.scale * value;
        out[column * p.width + row] = p.scale * value;
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    lower(group, p.rows, lane);
}
