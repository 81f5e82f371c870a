// Attention of few new tokens to the cache, split over the context (flash decoding): one workgroup for each head of keys and
// each part of the context, which serves all query heads of that group at once, with a running softmax in f32.
//
// bindings   0 q: f32 [rows, heads, HEAD_DIM], rotated; 1 keys: f16 or i8 [kv_heads, HEAD_DIM/8, capacity, 8],
//            for i8 with scales behind them, f32 [kv_heads, capacity, 2]: of keys, of values; 2 values: f16 or i8 [kv_heads,
//            capacity, HEAD_DIM]; 3 parts: f32 [rows, heads, splits, HEAD_DIM];
//            4 stats: f32 [rows, heads, splits, 2], for each part the largest score, in units of ln 2, and the sum of
//            weights relative to it
// grid       x: splits; y: kv_heads; z: rows
// scalars    row r sees positions 0 ..= position + r; split s sees those from s·per_split on, per_split of them. With one
//            split `parts` is the result and `stats` stays untouched; with more, attention_combine comes next
// constants  HEAD_DIM: 64 | 128 | 256; GROUP: query heads to a head of keys, 1 to 16; WG: workgroup size, a power of two and a
//            multiple of HEAD_DIM/4 (128, for GROUP above 8 64, stay within 16 KiB of workgroup memory); CACHE: f16 | i8;
//            REDUCE: subgroup | workgroup

//!use common/attend_split

struct Params {
    heads: u32,
    capacity: u32,
    position: u32,
    splits: u32,
    per_split: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> keys: array<KeyEight>;
@group(0) @binding(2) var<storage, read> values: array<ValueQuad>;
@group(0) @binding(3) var<storage, read_write> parts: array<f32>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;
var<immediate> p: Params;

fn store(at: u32, value: f32) {
    parts[at] = value;
}

fn store_stats(part: u32, value: vec2<f32>) {
    stats[part] = value;
}

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    let split = group.x;
    let kv_head = group.y;
    let row = group.z;
    let first_head = row * p.heads + kv_head * GROUP;
    let start = split * p.per_split;
    let end = min(start + p.per_split, p.position + row + 1u);

    for (var i = l.lane; i < WEIGHTS; i += TILE) {
        let channel = i % HEAD_DIM;
        let four = i / HEAD_DIM;
        var query = vec4(0.0);
        for (var h = 0u; h < 4u; h += 1u) {
            if four * 4u + h < GROUP {
                query[h] = q[(first_head + four * 4u + h) * HEAD_DIM + channel];
            }
        }
        memory[channel * FOURS + four] = query * (p.scale * LOG2_E);
    }
    workgroupBarrier();
    attend(kv_head, first_head, split, start, end, l);
}
