// The scale of each output that fits best beside those of inputs, as half precision has it, and what errors it leaves.
//
// With V = A diag(inputs) and W in the metric M = H + damping: scale[j] = V[j] M W[j]ᵀ / V[j] M V[j]ᵀ, that before where this is nothing
// that half precision has, or it is zero. Errors, undamped, of E[j] = scale[j] V[j] − W[j]: E[j] H E[j]ᵀ, and W[j] H W[j]ᵀ to compare.
//
// bindings   0 linear: f32 [outputs, n], A; 1 inputs: f32 [n]; 2 weights: f32 [outputs, n], W; 3 pulled_linear: f32 [outputs, n], V M;
//            4 pulled_weights: f32 [outputs, n], W M; 5 before: f32 [outputs]; 6 out: f32 [outputs, 3]: the scale, the two errors
// grid       x·y: outputs, numbered along x, an output a workgroup
// scalars    refit: 0 where scales stay what they are
// constants  WG: workgroup size; REDUCE: subgroup | workgroup

//!use common/reduce_{{REDUCE}}
//!use common/half

struct Params {
    outputs: u32,
    n: u32,
    damping: f32,
    refit: u32,
}

@group(0) @binding(0) var<storage, read> linear: array<f32>;
@group(0) @binding(1) var<storage, read> inputs: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> pulled_linear: array<f32>;
@group(0) @binding(4) var<storage, read> pulled_weights: array<f32>;
@group(0) @binding(5) var<storage, read> before: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    l: Lanes,
) {
    let output = group.y * groups.x + group.x;
    if output >= p.outputs {
        return;
    }
    let row = output * p.n;
    var scale = before[output];
    if p.refit == 1u {
        var across = 0.0;
        var own = 0.0;
        for (var i = l.lane; i < p.n; i += {{WG}}u) {
            let v = inputs[i] * linear[row + i];
            across = fma(v, pulled_weights[row + i], across);
            own = fma(v, pulled_linear[row + i], own);
        }
        across = workgroup_sum(across, l);
        own = workgroup_sum(own, l);
        if own != 0.0 {
            scale = fitted(scale, across / own);
        }
    }
    var left = 0.0;
    var all = 0.0;
    for (var i = l.lane; i < p.n; i += {{WG}}u) {
        let w = weights[row + i];
        let pulled = pulled_weights[row + i];
        let error = fma(scale, inputs[i] * linear[row + i], -w);
        let moved = fma(scale, pulled_linear[row + i], -pulled);
        left = fma(error, fma(-p.damping, error, moved), left);
        all = fma(w, fma(-p.damping, w, pulled), all);
    }
    left = workgroup_sum(left, l);
    all = workgroup_sum(all, l);
    if l.lane == 0u {
        out[3u * output] = scale;
        out[3u * output + 1u] = left;
        out[3u * output + 2u] = all;
    }
}
