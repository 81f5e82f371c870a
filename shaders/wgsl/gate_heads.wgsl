// heads ∘= sigmoid(gates): what attention gave, by gates that lie behind each query (Gated Attention, arXiv 2505.06708).
//
// bindings   0 q: f32 [rows, heads, 2, width], each head's query and gate; 1 heads: f32 [rows, heads, width]
// grid       x, y: ceil(count / WG) workgroups in all, x·y of them; row-major; count = rows·heads·width
// constants  WG: workgroup size

struct Params {
    width: u32,
    count: u32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read_write> heads: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * {{WG}}u + lane;
    if i < p.count {
        let gate = q[(2u * (i / p.width) + 1u) * p.width + i % p.width];
        heads[i] /= 1.0 + exp(-gate);
    }
}
