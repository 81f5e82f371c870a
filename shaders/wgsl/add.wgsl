// out = a + b, value by value.
//
// bindings   0 a, 1 b, 2 out: f32, `count` values
// grid       x, y: ceil(count / WG) workgroups in all, x·y of them; row-major
// constants  WG: workgroup size

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * {{WG}}u + lane;
    if i < p.count {
        out[i] = a[i] + b[i];
    }
}
