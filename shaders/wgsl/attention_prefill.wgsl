// Causal attention of many new tokens to the cache, which holds them already: tiles of 64 queries by 64 keys, running softmax
// in f32 (FlashAttention-2, arXiv 2307.08691). A tile's queries are those of all heads of a group, token by token, so that a
// head of keys is staged once for all of them. 16 KiB of workgroup memory.
//
// bindings   0 q: f32 [rows, heads, HEAD_DIM], rotated; 1 keys, 2 values: the cache, of attention_decode;
//            3 out: f32 [rows, heads, HEAD_DIM]
// grid       x: ceil(rows·GROUP / 64); y: kv_heads; workgroups of 256 lanes
// scalars    row r sees positions 0 ..= position + r
// constants  HEAD_DIM: 64 | 128 | 256; GROUP: query heads to a head of keys; CACHE: f16 | i8
//
// Lane (tx, ty) of 16 × 16 holds scores of queries 4·ty.. and keys 4·tx.., and of the result the same queries and the
// channels 4·(tx + 16·n)... Workgroup memory is indexed by exclusive-or, so that neither side of a transpose collides.
// Weights are rounded to f16 between the two products, as values are.

//!use common/cache_{{CACHE}}

const HEAD_DIM = {{HEAD_DIM}}u;
const GROUP = {{GROUP}}u;
const QUADS = HEAD_DIM / 4u;
// Fours of channels a lane holds.
const OWN = HEAD_DIM / 64u;
// Channels staged at once for scores; keys staged at once for values.
const CHANNELS = 16u;
const STAGED = 2048u / HEAD_DIM;
const KEYS = 256u;
const LOWEST = -1e30;
const LOG2_E = 1.4426950408889634;

struct Params {
    rows: u32,
    heads: u32,
    capacity: u32,
    position: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> keys: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<ValueQuad>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
var<immediate> p: Params;

// Queries [channel][quad of queries] and keys [channel][quad of keys]; maxima; values [key][quad of channels].
var<workgroup> stage: array<vec4<f32>, 512>;
// Weights [key][quad of queries], f16.
var<workgroup> weights: array<vec2<u32>, 1024>;

// A pair of channels of a key; `row` is where position 0 of its eight channels is.
fn key_pair(row: u32, position: u32, number: u32) -> vec2<f32> {
    let words = 8u / CODES;
    let word = keys[(row + position) * words + number * 2u / CODES];
    return pair_of_word(word, number % (CODES / 2u));
}

// One of the two scales of a head of keys and a position.
fn scale_at(kv_head: u32, position: u32, which: u32) -> f32 {
    let at = (p.heads / GROUP * (HEAD_DIM / 8u) + kv_head) * p.capacity + position;
    return bitcast<f32>(keys[2u * at + which]);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let kv_head = group.y;
    let tx = lane % 16u;
    let ty = lane / 16u;
    let queries = p.rows * GROUP;
    // The last tiles see most keys: they go first.
    let first_query = (groups.x - 1u - group.x) * 64u;
    let last_row = (min(first_query + 64u, queries) - 1u) / GROUP;
    let end = p.position + last_row + 1u;

    // What this lane stages of the queries: channel tx of each 16, four queries.
    var origin: vec4<u32>;
    // The last positions that its own four queries see.
    var limits: vec4<u32>;
    for (var i = 0u; i < 4u; i += 1u) {
        let query = min(first_query + 4u * ty + i, queries - 1u);
        let row = query / GROUP;
        let head = row * p.heads + kv_head * GROUP + query % GROUP;
        origin[i] = head * HEAD_DIM + tx;
        limits[i] = p.position + row;
    }

    var largest = vec4(LOWEST);
    var sums = vec4(0.0);
    // Query i of four, channels n: [i·OWN + n].
    var acc: array<vec4<f32>, 4u * OWN>;
    for (var i = 0u; i < 4u * OWN; i += 1u) {
        acc[i] = vec4(0.0);
    }

    for (var first = 0u; first < end; first += 64u) {
        // Key i of four: scores of four queries.
        var s0 = vec4(0.0);
        var s1 = vec4(0.0);
        var s2 = vec4(0.0);
        var s3 = vec4(0.0);
        for (var base = 0u; base < HEAD_DIM; base += CHANNELS) {
            workgroupBarrier();
            let query = vec4(q[origin.x + base], q[origin.y + base], q[origin.z + base], q[origin.w + base]);
            stage[tx * 16u + (ty ^ tx)] = query * (p.scale * LOG2_E);
            if lane < 128u {
                let pair = lane % 4u;
                let quad = lane / 4u % 16u;
                let eight = lane / 64u;
                let row = (kv_head * (HEAD_DIM / 8u) + base / 8u + eight) * p.capacity;
                let key = first + 4u * quad;
                let a = key_pair(row, min(key, end - 1u), pair);
                let b = key_pair(row, min(key + 1u, end - 1u), pair);
                let c = key_pair(row, min(key + 2u, end - 1u), pair);
                let d = key_pair(row, min(key + 3u, end - 1u), pair);
                let channel = eight * 8u + 2u * pair;
                stage[KEYS + channel * 16u + (quad ^ channel)] = vec4(a.x, b.x, c.x, d.x);
                stage[KEYS + channel * 16u + 16u + (quad ^ (channel + 1u))] =
                    vec4(a.y, b.y, c.y, d.y);
            }
            workgroupBarrier();
            for (var channel = 0u; channel < CHANNELS; channel += 1u) {
                let query = stage[channel * 16u + (ty ^ channel)];
                let key = stage[KEYS + channel * 16u + (tx ^ channel)];
                s0 += query * key.x;
                s1 += query * key.y;
                s2 += query * key.z;
                s3 += query * key.w;
            }
        }
        let key = first + 4u * tx;
        if SCALED {
            s0 *= scale_at(kv_head, min(key, end - 1u), 0u);
            s1 *= scale_at(kv_head, min(key + 1u, end - 1u), 0u);
            s2 *= scale_at(kv_head, min(key + 2u, end - 1u), 0u);
            s3 *= scale_at(kv_head, min(key + 3u, end - 1u), 0u);
        }
        let seen0 = vec4(key) <= limits;
        let seen1 = vec4(key + 1u) <= limits;
        let seen2 = vec4(key + 2u) <= limits;
        let seen3 = vec4(key + 3u) <= limits;
        s0 = select(vec4(LOWEST), s0, seen0);
        s1 = select(vec4(LOWEST), s1, seen1);
        s2 = select(vec4(LOWEST), s2, seen2);
        s3 = select(vec4(LOWEST), s3, seen3);

        workgroupBarrier();
        stage[lane] = max(max(s0, s1), max(s2, s3));
        workgroupBarrier();
        var top = largest;
        for (var i = 0u; i < 16u; i += 1u) {
            top = max(top, stage[ty * 16u + i]);
        }
        let shrink = exp2(largest - top);
        largest = top;
        // Every query sees position 0, so that a hidden key is far below the largest.
        s0 = exp2(s0 - top);
        s1 = exp2(s1 - top);
        s2 = exp2(s2 - top);
        s3 = exp2(s3 - top);
        sums = sums * shrink + (s0 + s1) + (s2 + s3);
        for (var i = 0u; i < 4u; i += 1u) {
            for (var n = 0u; n < OWN; n += 1u) {
                acc[i * OWN + n] *= shrink[i];
            }
        }
        let column = ty ^ tx;
        weights[tx * 64u + column] = vec2(pack2x16float(s0.xy), pack2x16float(s0.zw));
        weights[tx * 64u + 16u + column] = vec2(pack2x16float(s1.xy), pack2x16float(s1.zw));
        weights[tx * 64u + 32u + column] = vec2(pack2x16float(s2.xy), pack2x16float(s2.zw));
        weights[tx * 64u + 48u + column] = vec2(pack2x16float(s3.xy), pack2x16float(s3.zw));

        for (var base = 0u; base < 64u; base += STAGED) {
            workgroupBarrier();
            for (var i = lane; i < 512u; i += 256u) {
                let position = min(first + base + i / QUADS, end - 1u);
                var value = quad_of(values[(kv_head * p.capacity + position) * QUADS + i % QUADS]);
                if SCALED {
                    value *= scale_at(kv_head, position, 1u);
                }
                stage[i] = value;
            }
            workgroupBarrier();
            for (var i = 0u; i < STAGED; i += 1u) {
                let k = base + i;
                let words = weights[k * 16u + (ty ^ (k / 4u))];
                let low = unpack2x16float(words.x);
                let high = unpack2x16float(words.y);
                for (var n = 0u; n < OWN; n += 1u) {
                    let value = stage[i * QUADS + tx + 16u * n];
                    acc[n] += low.x * value;
                    acc[OWN + n] += low.y * value;
                    acc[2u * OWN + n] += high.x * value;
                    acc[3u * OWN + n] += high.y * value;
                }
            }
        }
    }

    workgroupBarrier();
    stage[lane] = sums;
    workgroupBarrier();
    var sum = vec4(0.0);
    for (var i = 0u; i < 16u; i += 1u) {
        sum += stage[ty * 16u + i];
    }
    for (var i = 0u; i < 4u; i += 1u) {
        let query = first_query + 4u * ty + i;
        if query < queries {
            let head = query / GROUP * p.heads + kv_head * GROUP + query % GROUP;
            for (var n = 0u; n < OWN; n += 1u) {
                out[head * QUADS + tx + 16u * n] = acc[i * OWN + n] / sum[i];
            }
        }
    }
}
