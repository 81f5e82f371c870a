// out = matrix · x, a row a workgroup.
//
// bindings   0 matrix: f32 [n, n]; 1 x: f32 [n]; 2 out: f32 [n]
// grid       x·y: n, numbered along x
// constants  WG: workgroup size; REDUCE: subgroup | workgroup

//!use common/reduce_{{REDUCE}}

struct Params {
    n: u32,
}

@group(0) @binding(0) var<storage, read> matrix: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    l: Lanes,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.n {
        return;
    }
    var sum = 0.0;
    for (var k = l.lane; k < p.n; k += {{WG}}u) {
        sum = fma(matrix[row * p.n + k], x[k], sum);
    }
    let total = workgroup_sum(sum, l);
    if l.lane == 0u {
        out[row] = total;
    }
}
