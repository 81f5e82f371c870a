// The lower triangle of the damped Hessian, its inputs in the order of the sweep turned round.
//
// bindings   0 hessian: f32 [n, n]; 1 order: u32 [n]; 2 state: f32 damping first; 3 out: f32 [n, n], of which the upper triangle is left
// grid       x: ceil(n / 256); y: n

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> hessian: array<f32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
    let column = 256u * group.x + lane;
    if column > row {
        return;
    }
    let from_row = order[p.n - 1u - row];
    var value = hessian[from_row * p.n + order[p.n - 1u - column]];
    if column == row {
        value += bitcast<f32>(state[0]);
    }
    out[row * p.n + column] = value;
}
