// out[r] = x[index[r] / per]: rows in another order; with `per` > 1, rows of what each input row was copied `per` times to.
//
// bindings   0 x: f32 [any, width]; 1 index: u32 [rows]; 2 out: f32 [rows, width]
// grid       x: ceil(width / WG); y: rows
// constants  WG: workgroup size

struct Params {
    width: u32,
    per: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = group.x * {{WG}}u + lane;
    if column < p.width {
        out[group.y * p.width + column] = x[index[group.y] / p.per * p.width + column];
    }
}
