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

//!use quantize/product

fn value(row: u32, column: u32) -> f32 {
    if row < p.rows && column < p.width {
        return x[row * p.width + column];
    }
    return 0.0;
}

fn left(row: u32, k: u32) -> f32 {
    return value(k, row);
}

fn right(k: u32, column: u32) -> f32 {
    return value(k, column);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x > group.y {
        return;
    }
    let tile = product(64u * group.y, 64u * group.x, p.rows, lane);
    for (var i = 0u; i < 4u; i += 1u) {
        let row = 64u * group.y + lane / 16u * 4u + i;
        let values = p.scale * row_of(tile, i);
        for (var j = 0u; j < 4u; j += 1u) {
            let column = 64u * group.x + lane % 16u * 4u + j;
            // Within tiles on the diagonal each place has two writers, who may differ in the last bit.
            if row < p.width && column <= row {
                out[row * p.width + column] = values[j];
                out[column * p.width + row] = values[j];
            }
        }
    }
}
