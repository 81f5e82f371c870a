// Before latent attention, for many rows: what latent_queries does, but for the product, which is latent_project's.
//
// bindings   0 q, 1 latent, 2 norm, 3 turns: of latent_queries; 4 absorbed, 5 cache: its 5 and 6; of queries only what rotates
// grid       x: heads + 1, the last for the latent; y: rows
// scalars    of latent_queries
// constants  RANK, WIDTH, PAIRING, WG, REDUCE: of latent_queries

//!use common/rms
//!use common/latent_token

struct Params {
    heads: u32,
    nope: u32,
    rank: u32,
    dims: u32,
    position: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> latent: array<f32>;
@group(0) @binding(2) var<storage, read> norm: array<f32>;
@group(0) @binding(3) var<storage, read> turns: array<f32>;
@group(0) @binding(4) var<storage, read_write> absorbed: array<f32>;
@group(0) @binding(5) var<storage, read_write> cache: array<u32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    if group.x == p.heads {
        append_latent(group.y, l);
    } else {
        rotate_query(group.y, group.x, l);
    }
}
