// Heads of new tokens: RMS norm of q and k, rotation to their positions (RoFormer, arXiv 2104.09864), keys and values
// into the cache. One dispatch for all three, so that decoding pays for one.
//
// bindings   0 q: f32 [rows, heads, HEAD_DIM], with GATED [rows, heads, 2, HEAD_DIM], of gate_heads; 1 k, 2 v: f32 [rows, kv_heads, HEAD_DIM];
//            3 norms: f32 [2, HEAD_DIM], the weights of q's and k's norms (anything if NORM is false);
//            4 turns: f32 [positions, dims], for each position dims/2 cosines and then as many sines;
//            5 rotated: f32 [rows, heads, HEAD_DIM];
//            6 keys, 7 values: the cache, of attention_decode
// grid       x: heads + 2·kv_heads; y: rows; workgroups of HEAD_DIM/2 lanes, two values each
// scalars    row r is at position `position + r`, which must be below `capacity` and in `turns`
// constants  HEAD_DIM: 64 | 128 | 256; WG: HEAD_DIM/2; NORM: true | false; PAIRING: half_split | interleaved;
//            GATED: true | false; CACHE, REDUCE: of attention_decode

//!use common/cache_{{CACHE}}
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

// The scale of a head of which the lane has two values. It goes to the cache, behind the keys, as number `which` of its two. All lanes
// must call.
fn scale_head(pair: vec2<f32>, h: u32, position: u32, which: u32, l: Lanes) -> f32 {
    if !SCALED {
        return 1.0;
    }
    let loud = magnitudes(pair);
    let scale = scale_of(workgroup_max(max(loud.x, loud.y), l));
    if l.lane == 0u {
        let at = (p.kv_heads * (HEAD_DIM / 8u) + h) * p.capacity + position;
        keys[2u * at + which] = bitcast<u32>(scale);
    }
    return scale;
}

// Word `i` of what is in `head`.
fn head_word(i: u32, scale: f32) -> u32 {
    let at = CODES * i;
    let last = HEAD_DIM - 1u;
    let four = vec4(head[at], head[at + 1u], head[min(at + 2u, last)], head[min(at + 3u, last)]);
    return word_of(four, scale);
}

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    let row = group.y;
    let position = p.position + row;
    let number = group.x;
    if number >= p.heads + p.kv_heads {
        let h = number - p.heads - p.kv_heads;
        let origin = (row * p.kv_heads + h) * HEAD_DIM + 2u * l.lane;
        let own = vec2(v[origin], v[origin + 1u]);
        head[2u * l.lane] = own.x;
        head[2u * l.lane + 1u] = own.y;
        let scale = scale_head(own, h, position, 1u, l);
        workgroupBarrier();
        if l.lane < HEAD_DIM / CODES {
            let to = (h * p.capacity + position) * (HEAD_DIM / CODES) + l.lane;
            values[to] = head_word(l.lane, scale);
        }
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
        let start = (row * p.heads + number) * HEAD_DIM * select(1u, 2u, {{GATED}});
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
    // Values of a word are neighbours: exchange.
    head[pair.x] = a;
    head[pair.y] = b;
    let h = number - p.heads;
    let scale = scale_head(vec2(a, b), h, position, 0u, l);
    workgroupBarrier();
    if l.lane < HEAD_DIM / CODES {
        let words = 8u / CODES;
        let eight = (h * (HEAD_DIM / 8u) + l.lane / words) * p.capacity + position;
        keys[eight * words + l.lane % words] = head_word(l.lane, scale);
    }
}
