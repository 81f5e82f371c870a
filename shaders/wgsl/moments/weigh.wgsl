// How much each row counts in second moments: once, or with the weight of the choice that it is, or its square; -1 for a row with a
// value that is not finite, which does not count.
//
// bindings   0 x: f32 [rows, width]; 1 sources: u32 [rows], the choice that each row is; 2 weights: f32, of each choice (ROUTED is
//            false: both are anything); 3 counts: f32 [rows]
// grid       x·y: rows, numbered along x
// constants  WG: workgroup size; ROUTED: true | false; SQUARED: true | false

struct Params {
    width: u32,
    rows: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> sources: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> counts: array<f32>;
var<immediate> p: Params;

var<workgroup> largest: atomic<u32>;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.rows {
        return;
    }
    if lane == 0u {
        atomicStore(&largest, 0u);
    }
    workgroupBarrier();
    // Decided bit by bit: compilers may assume away NaN.
    var own = 0u;
    for (var i = lane; i < p.width; i += {{WG}}u) {
        own = max(own, bitcast<u32>(x[row * p.width + i]) & 0x7fffffffu);
    }
    atomicMax(&largest, own);
    workgroupBarrier();
    if lane != 0u {
        return;
    }
    var count = 1.0;
    if {{ROUTED}} {
        let weight = weights[sources[row]];
        count = select(weight, weight * weight, {{SQUARED}});
    }
    counts[row] = select(-1.0, count, atomicLoad(&largest) < 0x7f800000u);
}
