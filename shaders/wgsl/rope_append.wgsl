// Heads of new tokens: RMS norm of q and k, rotation to their positions (RoFormer, arXiv 2104.09864), keys and values
// into the cache. One dispatch for all three, so that decoding pays for one.
//
// bindings   0 q: f32 [rows, heads, HEAD_DIM]; 1 k, 2 v: f32 [rows, kv_heads, HEAD_DIM];
//            3 norms: f32 [2, HEAD_DIM], the weights of q's and k's norms (anything if NORM is false);
//            4 turns: f32 [positions, dims], for each position dims/2 cosines and then as many sines;
//            5 rotated: f32 [rows, heads, HEAD_DIM];
//            6 keys: f16 [kv_heads, HEAD_DIM/8, capacity, 8], 7 values: f16 [kv_heads, capacity, HEAD_DIM]: two a word
// grid       x: heads + 2·kv_heads; y: rows; workgroups of HEAD_DIM/2 lanes, two values each
// scalars    row r is at position `position + r`, which must be below `capacity` and in `turns`
// constants  HEAD_DIM: 64 | 128 | 256; WG: HEAD_DIM/2; NORM: true | false; PAIRING: half_split | interleaved;
//            REDUCE: subgroup | workgroup
//
// Values beyond ±65504 are cut to that, so that the cache stays finite where the input is.

//!use common/rms
//!use common/pairing_{{PAIRING}}

const HEAD_DIM = {{HEAD_DIM}}u;
const NORM = {{NORM}};

struct Params {
    heads: u32,
    kv_heads: u32,
    capacity: u32,
    position: u32,
    // Values of a head that rotate: even, at most HEAD_DIM.
    dims: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> norms: array<f32>;
@group(0) @binding(4) var<storage, read> turns: array<f32>;
@group(0) @binding(5) var<storage, read_write> rotated: array<f32>;
@group(0) @binding(6) var<storage, read_write> keys: array<u32>;
@group(0) @binding(7) var<storage, read_write> values: array<u32>;
var<immediate> p: Params;

var<workgroup> head: array<f32, HEAD_DIM>;

fn half_pair(a: f32, b: f32) -> u32 {
    return pack2x16float(clamp(vec2(a, b), vec2(-65504.0), vec2(65504.0)));
}

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    let row = group.y;
    let position = p.position + row;
    let number = group.x;
    if number >= p.heads + p.kv_heads {
        let h = number - p.heads - p.kv_heads;
        let origin = (row * p.kv_heads + h) * HEAD_DIM + 2u * l.lane;
        let to = ((h * p.capacity + position) * HEAD_DIM) / 2u + l.lane;
        values[to] = half_pair(v[origin], v[origin + 1u]);
        return;
    }
    let is_key = number >= p.heads;
    let pair = pair_of(l.lane, p.dims);
    var a: f32;
    var b: f32;
    if is_key {
        let start = (row * p.kv_heads + number - p.heads) * HEAD_DIM;
        a = k[start + pair.x];
        b = k[start + pair.y];
    } else {
        let start = (row * p.heads + number) * HEAD_DIM;
        a = q[start + pair.x];
        b = q[start + pair.y];
    }
    if NORM {
        let factor = inverse_rms(a * a + b * b, HEAD_DIM, p.epsilon, l);
        let weights = select(0u, HEAD_DIM, is_key);
        a = a * factor * norms[weights + pair.x];
        b = b * factor * norms[weights + pair.y];
    }
    if 2u * l.lane < p.dims {
        let turn = position * p.dims + l.lane;
        let cosine = turns[turn];
        let sine = turns[turn + p.dims / 2u];
        let turned = a * cosine - b * sine;
        b = b * cosine + a * sine;
        a = turned;
    }
    if !is_key {
        let start = (row * p.heads + number) * HEAD_DIM;
        rotated[start + pair.x] = a;
        rotated[start + pair.y] = b;
        return;
    }
    // Pairs of the cache are neighbours: exchange.
    head[pair.x] = a;
    head[pair.y] = b;
    workgroupBarrier();
    let at = 2u * l.lane;
    let eights = ((number - p.heads) * (HEAD_DIM / 8u) + at / 8u) * p.capacity + position;
    keys[eights * 4u + l.lane % 4u] = half_pair(head[at], head[at + 1u]);
}
