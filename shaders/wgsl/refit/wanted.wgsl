// The right side of the equations that input scales solve: out[i] = Σ_j scales[j] A[j][i] pulled[j][i].
//
// bindings   0 linear: f32 [outputs, inputs], A; 1 scales: f32 [outputs]; 2 pulled: f32 [outputs, inputs]; 3 out: f32 [inputs]
// grid       x: inputs / 32, which are a multiple of 32

struct Params {
    outputs: u32,
    inputs: u32,
}

@group(0) @binding(0) var<storage, read> linear: array<f32>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> pulled: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

var<workgroup> sums: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = 32u * group.x + lane % 32u;
    var sum = 0.0;
    for (var row = lane / 32u; row < p.outputs; row += 8u) {
        let at = row * p.inputs + column;
        sum = fma(scales[row] * linear[at], pulled[at], sum);
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane < 32u {
        for (var i = 1u; i < 8u; i += 1u) {
            sum += sums[32u * i + lane];
        }
        out[column] = sum;
    }
}
