// A step of conjugate gradients for matrix · x = wanted, preconditioned by the diagonal, and x in half precision.
//
// bindings   0 matrix: f32 [n, n], of which the diagonal is read; 1 wanted: f32 [n]; 2 before: f32 [n], what x began with;
//            3 image: f32 [n], the matrix times the direction, or the first time times `before`; 4 state: f32 [2 n + 1]: x, the residual,
//            and its size; 5 direction: f32 [n]; 6 scales: f32 [n]: x as half precision has it, but `before` where that is zero or x
//            nothing that half precision has
// grid       1: one workgroup of 256
// scalars    first: 1 for the first time, which finds residual and direction only
// constants  REDUCE: subgroup | workgroup; WG is 256
//
// Where nothing is left to be won, x stays from then on.

//!use common/reduce_{{REDUCE}}
//!use common/half

struct Params {
    n: u32,
    first: u32,
}

@group(0) @binding(0) var<storage, read> matrix: array<f32>;
@group(0) @binding(1) var<storage, read> wanted: array<f32>;
@group(0) @binding(2) var<storage, read> before: array<f32>;
@group(0) @binding(3) var<storage, read> image: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<f32>;
@group(0) @binding(5) var<storage, read_write> direction: array<f32>;
@group(0) @binding(6) var<storage, read_write> scales: array<f32>;
var<immediate> p: Params;

// The residual at `i` where the diagonal is one.
fn conditioned(i: u32) -> f32 {
    let diagonal = matrix[i * p.n + i];
    let residual = state[p.n + i];
    if diagonal > 0.0 {
        return residual / diagonal;
    }
    return residual;
}

@compute @workgroup_size({{WG}})
fn main(l: Lanes) {
    var size = 0.0;
    var step = 0.0;
    if p.first == 1u {
        for (var i = l.lane; i < p.n; i += {{WG}}u) {
            state[i] = before[i];
            state[p.n + i] = wanted[i] - image[i];
        }
    } else {
        size = state[2u * p.n];
        var part = 0.0;
        for (var i = l.lane; i < p.n; i += {{WG}}u) {
            part = fma(direction[i], image[i], part);
        }
        let curvature = workgroup_sum(part, l);
        if size > 0.0 && curvature > 0.0 {
            step = size / curvature;
        }
        for (var i = l.lane; i < p.n; i += {{WG}}u) {
            state[i] = fma(step, direction[i], state[i]);
            state[p.n + i] = fma(-step, image[i], state[p.n + i]);
        }
    }
    // Each lane reads what it has written itself.
    var part = 0.0;
    for (var i = l.lane; i < p.n; i += {{WG}}u) {
        part = fma(state[p.n + i], conditioned(i), part);
    }
    let next = workgroup_sum(part, l);
    var again = 0.0;
    if size > 0.0 {
        again = next / size;
    }
    for (var i = l.lane; i < p.n; i += {{WG}}u) {
        var last = 0.0;
        if p.first == 0u {
            last = again * direction[i];
        }
        direction[i] = conditioned(i) + last;
        scales[i] = fitted(before[i], state[i]);
    }
    if l.lane == 0u {
        state[2u * p.n] = select(0.0, next, p.first == 1u || step > 0.0);
    }
}
