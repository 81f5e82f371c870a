// Pieces of `width` values, cut or padded with zeros to `to` values: heads of a width that no kernel is made for.
//
// bindings   0 x: f32 [pieces, width]; 1 out: f32 [pieces, to]
// grid       x, y: ceil(count / WG) workgroups in all, x·y of them; row-major; count = pieces·to
// constants  WG: workgroup size

struct Params {
    width: u32,
    to: u32,
    count: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * {{WG}}u + lane;
    if i >= p.count {
        return;
    }
    let column = i % p.to;
    var value = 0.0;
    if column < p.width {
        value = x[i / p.to * p.width + column];
    }
    out[i] = value;
}
