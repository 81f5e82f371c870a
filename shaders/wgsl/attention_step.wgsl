// One new token's attention in one dispatch: rope_append and attention_decode together. Every workgroup norms and rotates the
// query heads of its group for itself; the one whose part of the context the token is in also writes its key and value into
// the cache, and sees them.
//
// bindings   0 q: f32 [heads, HEAD_DIM]; 1 k, 2 v: f32 [kv_heads, HEAD_DIM]; 3 norms, 4 turns: of rope_append;
//            5 keys, 6 values: the cache, of rope_append;
//            7 parts: f32 [heads, splits, HEAD_DIM], and with more than one split behind it [heads, splits, 2]: parts and stats of
//            attention_decode
// grid       x: splits; y: kv_heads
// scalars    the token is at `position`; of `splits` parts of `per_split` positions each the last is not empty. With one split
//            `parts` is the result; with more, attention_combine comes next
// constants  HEAD_DIM, GROUP, WG, REDUCE: of attention_decode; NORM, PAIRING: of rope_append

//!use common/attend_split
//!use common/pairing_{{PAIRING}}

const NORM = {{NORM}};

struct Params {
    heads: u32,
    capacity: u32,
    position: u32,
    splits: u32,
    per_split: u32,
    scale: f32,
    dims: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> norms: array<f32>;
@group(0) @binding(4) var<storage, read> turns: array<f32>;
@group(0) @binding(5) var<storage, read_write> keys: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> values: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read_write> parts: array<f32>;
var<immediate> p: Params;

var<workgroup> head: array<f32, HEAD_DIM>;

fn store(at: u32, value: f32) {
    parts[at] = value;
}

fn store_stats(part: u32, value: vec2<f32>) {
    let at = p.heads * p.splits * HEAD_DIM + 2u * part;
    parts[at] = value.x;
    parts[at + 1u] = value.y;
}

fn half_pair(a: f32, b: f32) -> u32 {
    return pack2x16float(clamp(vec2(a, b), vec2(-65504.0), vec2(65504.0)));
}

// Cosine and sine of a pair.
fn turn_of(pair: u32) -> vec2<f32> {
    let at = p.position * p.dims + pair;
    return vec2(turns[at], turns[at + p.dims / 2u]);
}

// Queries into `memory`, four heads at a time.
fn stage_queries(first_head: u32, l: Lanes) {
    for (var four = 0u; four < FOURS; four += 1u) {
        var squares = vec4(0.0);
        for (var channel = l.lane; channel < HEAD_DIM; channel += TILE) {
            var query = vec4(0.0);
            for (var h = 0u; h < 4u; h += 1u) {
                if four * 4u + h < GROUP {
                    query[h] = q[(first_head + four * 4u + h) * HEAD_DIM + channel];
                }
            }
            squares += query * query;
            memory[channel * FOURS + four] = query;
        }
        if NORM {
            let mean = workgroup_sum4(squares, l) / f32(HEAD_DIM);
            let factor = 1.0 / sqrt(mean + p.epsilon);
            for (var channel = l.lane; channel < HEAD_DIM; channel += TILE) {
                memory[channel * FOURS + four] *= factor * norms[channel];
            }
        }
    }
    workgroupBarrier();
    for (var i = l.lane; i < HEAD_DIM / 2u * FOURS; i += TILE) {
        let pair = pair_of(i / FOURS, p.dims) * FOURS + i % FOURS;
        var a = memory[pair.x];
        var b = memory[pair.y];
        if 2u * (i / FOURS) < p.dims {
            let turn = turn_of(i / FOURS);
            let turned = a * turn.x - b * turn.y;
            b = b * turn.x + a * turn.y;
            a = turned;
        }
        memory[pair.x] = a * (p.scale * LOG2_E);
        memory[pair.y] = b * (p.scale * LOG2_E);
    }
}

// The token's key and value into the cache.
fn append(kv_head: u32, l: Lanes) {
    let first = kv_head * HEAD_DIM;
    var squares = 0.0;
    for (var channel = l.lane; channel < HEAD_DIM; channel += TILE) {
        let value = k[first + channel];
        squares += value * value;
        head[channel] = value;
    }
    if NORM {
        let mean = workgroup_sum4(vec4(squares, 0.0, 0.0, 0.0), l).x / f32(HEAD_DIM);
        let factor = 1.0 / sqrt(mean + p.epsilon);
        for (var channel = l.lane; channel < HEAD_DIM; channel += TILE) {
            head[channel] *= factor * norms[HEAD_DIM + channel];
        }
    }
    workgroupBarrier();
    for (var i = l.lane; 2u * i < p.dims; i += TILE) {
        let pair = pair_of(i, p.dims);
        let turn = turn_of(i);
        let a = head[pair.x];
        let b = head[pair.y];
        head[pair.x] = a * turn.x - b * turn.y;
        head[pair.y] = b * turn.x + a * turn.y;
    }
    workgroupBarrier();
    for (var i = l.lane; i < HEAD_DIM / 8u; i += TILE) {
        let at = 8u * i;
        keys[(kv_head * (HEAD_DIM / 8u) + i) * p.capacity + p.position] = vec4(
            half_pair(head[at], head[at + 1u]),
            half_pair(head[at + 2u], head[at + 3u]),
            half_pair(head[at + 4u], head[at + 5u]),
            half_pair(head[at + 6u], head[at + 7u]),
        );
    }
    for (var i = l.lane; i < QUADS; i += TILE) {
        let at = first + 4u * i;
        values[(kv_head * p.capacity + p.position) * QUADS + i] =
            vec2(half_pair(v[at], v[at + 1u]), half_pair(v[at + 2u], v[at + 3u]));
    }
}

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    let split = group.x;
    let kv_head = group.y;
    let start = split * p.per_split;
    let end = min(start + p.per_split, p.position + 1u);
    let first_head = kv_head * GROUP;
    stage_queries(first_head, l);
    if end == p.position + 1u && start < end {
        append(kv_head, l);
    }
    // Queries in workgroup memory, and what went into the cache.
    workgroupBarrier();
    storageBarrier();
    attend(kv_head, first_head, split, start, end, l);
}
