// One new token's attention in one dispatch: rope_append and attention_decode together. Every workgroup norms and rotates the
// query heads of its group for itself; the one whose part of the context the token is in also writes its key and value into
// the cache, and sees them. With `gathers`, the last workgroup of a head of keys to arrive adds up what the parts gave, and sets the
// head's counter back to 0.
//
// bindings   0 qkv: f32 [heads, HEAD_DIM], with GATED [heads, 2, HEAD_DIM] of gate_heads, from `k_at` and `v_at` on [kv_heads, HEAD_DIM]; 1 norms, 2 turns: of rope_append;
//            3 keys, 4 values: the cache, of attention_decode;
//            5 parts: f32 [heads, splits, HEAD_DIM], and behind it [heads, splits, 2]: parts and stats of attention_decode, for more
//            than one split (anything for one); 6 out: f32 [heads, HEAD_DIM]; 7 counters: u32 [kv_heads], zeros
// grid       x: splits; y: kv_heads
// scalars    the token is at `position`; of `splits` parts of `per_split` positions each the last is not empty. Up to 16 splits
//            may be gathered (gathers ≠ 0); without, attention_combine comes next
// constants  HEAD_DIM, GROUP, WG, CACHE, REDUCE: of attention_decode; NORM, PAIRING, GATED: of rope_append

//!use common/attend_split
//!use common/pairing_{{PAIRING}}

const NORM = {{NORM}};
// Values from a head's query to the next one's.
const QUERY = HEAD_DIM * select(1u, 2u, {{GATED}});

struct Params {
    heads: u32,
    capacity: u32,
    position: u32,
    splits: u32,
    per_split: u32,
    scale: f32,
    dims: u32,
    epsilon: f32,
    k_at: u32,
    v_at: u32,
    gathers: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> norms: array<f32>;
@group(0) @binding(2) var<storage, read> turns: array<f32>;
@group(0) @binding(3) var<storage, read_write> keys: array<KeyEight>;
@group(0) @binding(4) var<storage, read_write> values: array<ValueQuad>;
// Written by some workgroups and read by another: only atomic accesses are sure to be seen.
@group(0) @binding(5) var<storage, read_write> parts: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read_write> counters: array<atomic<u32>>;
var<immediate> p: Params;

var<workgroup> head: array<f32, HEAD_DIM>;
var<workgroup> arrived: u32;

fn give(at: u32, value: f32) {
    var given = value;
    if {{GATED}} {
        given /= 1.0 + exp(-qkv[at / HEAD_DIM * QUERY + HEAD_DIM + at % HEAD_DIM]);
    }
    out[at] = given;
}

fn store(at: u32, value: f32) {
    if p.splits == 1u {
        give(at, value);
    } else {
        atomicStore(&parts[at], bitcast<u32>(value));
    }
}

// Where the stats of a part are.
fn stats_at(part: u32) -> u32 {
    return p.heads * p.splits * HEAD_DIM + 2u * part;
}

fn store_stats(part: u32, value: vec2<f32>) {
    let at = stats_at(part);
    atomicStore(&parts[at], bitcast<u32>(value.x));
    atomicStore(&parts[at + 1u], bitcast<u32>(value.y));
}

fn part(at: u32) -> f32 {
    return bitcast<f32>(atomicLoad(&parts[at]));
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
                    query[h] = qkv[(first_head + four * 4u + h) * QUERY + channel];
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
        let value = qkv[p.k_at + first + channel];
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
    var scales = vec2(1.0);
    if SCALED {
        var largest = vec4(0.0);
        for (var channel = l.lane; channel < HEAD_DIM; channel += TILE) {
            let pair = vec2(head[channel], qkv[p.v_at + first + channel]);
            largest = max(largest, vec4(magnitudes(pair), 0.0, 0.0));
        }
        largest = workgroup_max4(largest, l);
        scales = vec2(scale_of(largest.x), scale_of(largest.y));
        if l.lane == 0u {
            keys[scales_at(kv_head, p.position)] = scale_words(scales);
        }
    }
    for (var i = l.lane; i < HEAD_DIM / 8u; i += TILE) {
        let at = 8u * i;
        keys[(kv_head * (HEAD_DIM / 8u) + i) * p.capacity + p.position] = eight(
            vec4(head[at], head[at + 1u], head[at + 2u], head[at + 3u]),
            vec4(head[at + 4u], head[at + 5u], head[at + 6u], head[at + 7u]),
            scales.x,
        );
    }
    for (var i = l.lane; i < QUADS; i += TILE) {
        let at = p.v_at + first + 4u * i;
        values[(kv_head * p.capacity + p.position) * QUADS + i] =
            quad(vec4(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]), scales.y);
    }
}

// What the parts of the context gave to the heads of a group, as one result.
fn gather(first_head: u32, l: Lanes) {
    for (var i = l.lane; i < GROUP * p.splits; i += TILE) {
        let at = stats_at(first_head * p.splits + i);
        memory[i] = vec4(part(at), part(at + 1u), 0.0, 0.0);
    }
    workgroupBarrier();
    for (var i = l.lane; i < GROUP * QUADS; i += TILE) {
        let own = i / QUADS * p.splits;
        let channel = i % QUADS * 4u;
        var largest = memory[own].x;
        for (var s = 1u; s < p.splits; s += 1u) {
            largest = max(largest, memory[own + s].x);
        }
        var total = vec4(0.0);
        var sum = 0.0;
        for (var s = 0u; s < p.splits; s += 1u) {
            let at = (first_head * p.splits + own + s) * HEAD_DIM + channel;
            let given = vec4(part(at), part(at + 1u), part(at + 2u), part(at + 3u));
            let share = exp2(memory[own + s].x - largest);
            sum += share * memory[own + s].y;
            total += share * given;
        }
        total /= sum;
        let to = (first_head + i / QUADS) * HEAD_DIM + channel;
        for (var c = 0u; c < 4u; c += 1u) {
            give(to + c, total[c]);
        }
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
    if p.gathers == 0u || p.splits == 1u {
        return;
    }
    // Parts are out before the workgroup counts as arrived.
    storageBarrier();
    if l.lane == 0u {
        arrived = atomicAdd(&counters[kv_head], 1u);
    }
    if workgroupUniformLoad(&arrived) + 1u < p.splits {
        return;
    }
    storageBarrier();
    if l.lane == 0u {
        atomicStore(&counters[kv_head], 0u);
    }
    gather(first_head, l);
}
