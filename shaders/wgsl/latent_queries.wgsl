// Before latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1), for few rows: norms latents, rotates, appends to the cache, and takes
// queries to the latents' side, absorbed[h] = q[h] · keys[h], so that the cache is all that attention reads.
//
// bindings   0 q: f32 [rows, heads, nope + dims]; 1 latent: f32 [rows, rank + dims]; 2 norm: f32 [rank]; 3 turns: of rope_append;
//            4 keys: f16 [heads, nope, RANK], in fours, zero from `rank` on; 5 absorbed: f32 [rows, heads, WIDTH], queries: RANK values
//            for the latent, then what rotates; 6 cache: f16 [capacity, WIDTH], two a word: latents, then what rotates
// grid       x: RANK / 64; y: heads + 1, the last for the latent; z: rows
// scalars    row r is at position `position + r`, which must be below the capacity and in `turns`
// constants  RANK, WIDTH, PAIRING: of common/latent_token; WG: workgroup size, a power of two, at least 16; REDUCE: subgroup |
//            workgroup

//!use common/rms
//!use common/latent_token
//!use common/head_product

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
@group(0) @binding(4) var<storage, read> keys: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> absorbed: array<f32>;
@group(0) @binding(6) var<storage, read_write> cache: array<u32>;
var<immediate> p: Params;

var<private> query: u32;

fn input(i: u32) -> f32 {
    return q[query + i];
}

fn matrix(at: u32) -> vec2<u32> {
    return keys[at];
}

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    let head = group.y;
    let row = group.z;
    if head == p.heads {
        if group.x == 0u {
            append_latent(row, l);
        }
        return;
    }
    if group.x == 0u {
        rotate_query(row, head, l);
    }
    query = (row * p.heads + head) * (p.nope + p.dims);
    let product = head_product(head * p.nope * (RANK / 4u), p.nope, RANK / 4u, group.x, l.lane);
    if l.lane < 16u {
        let to = (row * p.heads + head) * WIDTH + 64u * group.x + 4u * l.lane;
        for (var c = 0u; c < 4u; c += 1u) {
            absorbed[to + c] = product[c];
        }
    }
}
