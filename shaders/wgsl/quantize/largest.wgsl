// The largest magnitude of weights, as the bits of a float, which ascend with it.
//
// bindings   0 weights: f32 [count]; 1 state: u32, of which the first is raised to it
// grid       x: any

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read_write> state: array<atomic<u32>>;
var<immediate> p: Params;

var<workgroup> own: atomic<u32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if lane == 0u {
        atomicStore(&own, 0u);
    }
    var most = 0u;
    for (var i = 256u * group.x + lane; i < p.count; i += 256u * groups.x) {
        most = max(most, bitcast<u32>(abs(weights[i])));
    }
    workgroupBarrier();
    atomicMax(&own, most);
    workgroupBarrier();
    if lane == 0u {
        atomicMax(&state[0], atomicLoad(&own));
    }
}
