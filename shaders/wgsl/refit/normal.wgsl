// The matrix of the equations that input scales solve: out = (H + damping) ∘ V Vᵀ, both triangles, where V = Aᵀ diag(scales) are a
// linear's values with the scales of its outputs.
//
// bindings   0 linear: f32 [outputs, inputs], A; 1 scales: f32 [outputs]; 2 hessian: f32 [inputs, inputs]; 3 out: f32 [inputs, inputs]
// grid       x, y: inputs / 64; inputs are a multiple of 64, outputs of 16

struct Params {
    outputs: u32,
    inputs: u32,
    damping: f32,
}

@group(0) @binding(0) var<storage, read> linear: array<f32>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> hessian: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

const BY_DEPTH = false;

//!use quantize/lower

fn left(row: u32, k: u32) -> f32 {
    return right(k, row);
}

fn right(k: u32, column: u32) -> f32 {
    return scales[k] * linear[k * p.inputs + column];
}

fn put(row: u32, column: u32, value: f32) {
    let at = row * p.inputs + column;
    let metric = hessian[at] + select(0.0, p.damping, row == column);
    out[at] = metric * value;
    out[column * p.inputs + row] = metric * value;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    lower(group, p.outputs, lane);
}
