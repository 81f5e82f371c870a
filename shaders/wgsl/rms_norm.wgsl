// out = x / sqrt(mean(x²) + epsilon) ∘ weight, row by row (RMS norm, arXiv 1910.07467).
//
// bindings   0 x: f32 [rows, width]; 1 weight: f32 [width]; 2 out: f32 [rows, width]; 3 flags: u32, of common/guard
// grid       x: rows
// constants  WG: workgroup size, a power of two; REDUCE: subgroup | workgroup

//!use common/guard
//!use common/rms

struct Params {
    width: u32,
    epsilon: f32,
    flag: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<storage, read_write> flags: array<atomic<u32>>;
var<immediate> p: Params;

fn guarded(row: u32, i: u32) -> f32 {
    return x[row * p.width + i];
}

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    let start = group.x * p.width;
    var squares = 0.0;
    for (var i = l.lane; i < p.width; i += {{WG}}u) {
        let value = x[start + i];
        squares += value * value;
    }
    squares = workgroup_sum(squares, l);
    if is_bad_logit(squares) {
        guard(group.x, p.width, l);
    }
    let factor = inverse_rms_of(squares, p.width, p.epsilon);
    for (var i = l.lane; i < p.width; i += {{WG}}u) {
        out[start + i] = x[start + i] * factor * weight[i];
    }
}
