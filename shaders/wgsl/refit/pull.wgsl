// What the inputs' second moment makes of a linear: out = A diag(scales) (H + damping), a tile of 64 × 64 a workgroup.
//
// bindings   0 linear: f32 [outputs, inputs], A; 1 scales: f32 [inputs]; 2 hessian: f32 [inputs, inputs]; 3 out: f32 [outputs, inputs]
// grid       x: inputs / 64; y: outputs / 64; both are multiples of 64

struct Params {
    inputs: u32,
    damping: f32,
}

@group(0) @binding(0) var<storage, read> linear: array<f32>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> hessian: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

const BY_DEPTH = true;

//!use quantize/product

fn left(row: u32, k: u32) -> f32 {
    return scales[k] * linear[row * p.inputs + k];
}

fn right(k: u32, column: u32) -> f32 {
    return hessian[k * p.inputs + column];
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tile = product(64u * group.y, 64u * group.x, p.inputs, lane);
    for (var i = 0u; i < 4u; i += 1u) {
        let row = 64u * group.y + lane / 16u * 4u + i;
        let values = row_of(tile, i);
        for (var j = 0u; j < 4u; j += 1u) {
            let column = 64u * group.x + lane % 16u * 4u + j;
            out[row * p.inputs + column] = fma(p.damping, left(row, column), values[j]);
        }
    }
}
