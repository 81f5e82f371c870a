// What is common to kernels that attend with a few queries to a part of the context: see attention_decode. The queries of a
// group lie in `memory`, scaled; the user declares `keys` and `values`, has capacity and splits among its scalars, and names
// `store` and `store_stats`.
//
// constants  HEAD_DIM, GROUP, WG, CACHE, REDUCE: of attention_decode
//
// Scores: a lane holds one position, and its reads of keys are next to its neighbours'; the queries come from workgroup
// memory, the same address for all. Values: a lane holds four channels of every SLICES-th position.

//!use common/cache_{{CACHE}}
//!use common/reduce4_{{REDUCE}}

const HEAD_DIM = {{HEAD_DIM}}u;
const GROUP = {{GROUP}}u;
// Query heads in fours; what is beyond GROUP is computed with zeros and not written.
const FOURS = (GROUP + 3u) / 4u;
const TILE = {{WG}}u;
const QUADS = HEAD_DIM / 4u;
const SLICES = TILE / QUADS;
const WEIGHTS = HEAD_DIM * FOURS;
// Queries and a tile's weights; in the end, two channels of each lane.
const MEMORY = max((HEAD_DIM + TILE) * FOURS, 2u * TILE);
const LOWEST = -1e30;
const LOG2_E = 1.4426950408889634;

// Queries [channel][four], then weights [position of the tile][four].
var<workgroup> memory: array<vec4<f32>, MEMORY>;

// Where the scales of a head of keys and a position are, if there are any.
fn scales_at(kv_head: u32, position: u32) -> u32 {
    return (p.heads / GROUP * (HEAD_DIM / 8u) + kv_head) * p.capacity + position;
}

// Attends to positions from `start` on and below `end`; all lanes call, and `memory` is visible to all.
fn attend(kv_head: u32, first_head: u32, split: u32, start: u32, end: u32, l: Lanes) {
    let quad_number = l.lane % QUADS;
    let slice = l.lane / QUADS;
    var largest: array<vec4<f32>, FOURS>;
    var sums: array<vec4<f32>, FOURS>;
    // Channel c of the lane's four, heads `four`: [c·FOURS + four].
    var acc: array<vec4<f32>, 4u * FOURS>;
    for (var four = 0u; four < FOURS; four += 1u) {
        largest[four] = vec4(LOWEST);
        sums[four] = vec4(0.0);
        for (var c = 0u; c < 4u; c += 1u) {
            acc[c * FOURS + four] = vec4(0.0);
        }
    }

    for (var tile = start; tile < end; tile += TILE) {
        let position = tile + l.lane;
        var scores: array<vec4<f32>, FOURS>;
        for (var four = 0u; four < FOURS; four += 1u) {
            scores[four] = vec4(0.0);
        }
        var scales = vec2(1.0);
        if position < end {
            if SCALED {
                scales = scales_in(keys[scales_at(kv_head, position)]);
            }
            for (var eight = 0u; eight < HEAD_DIM / 8u; eight += 1u) {
                let words = keys[(kv_head * (HEAD_DIM / 8u) + eight) * p.capacity + position];
                let at = eight * 8u * FOURS;
                let low = low_of(words);
                let high = high_of(words);
                for (var four = 0u; four < FOURS; four += 1u) {
                    var score = scores[four];
                    score += memory[at + four] * low.x;
                    score += memory[at + FOURS + four] * low.y;
                    score += memory[at + 2u * FOURS + four] * low.z;
                    score += memory[at + 3u * FOURS + four] * low.w;
                    score += memory[at + 4u * FOURS + four] * high.x;
                    score += memory[at + 5u * FOURS + four] * high.y;
                    score += memory[at + 6u * FOURS + four] * high.z;
                    score += memory[at + 7u * FOURS + four] * high.w;
                    scores[four] = score;
                }
            }
        }
        for (var four = 0u; four < FOURS; four += 1u) {
            let score = select(vec4(LOWEST), scores[four] * scales.x, position < end);
            // Its barriers also wait for the readers of the last tile's weights.
            let top = max(largest[four], workgroup_max4(score, l));
            let shrink = exp2(largest[four] - top);
            let weight = select(vec4(0.0), exp2(score - top), position < end);
            largest[four] = top;
            sums[four] = sums[four] * shrink + weight;
            memory[WEIGHTS + l.lane * FOURS + four] = weight * scales.y;
            for (var c = 0u; c < 4u; c += 1u) {
                acc[c * FOURS + four] *= shrink;
            }
        }
        workgroupBarrier();
        let count = min(end - tile, TILE);
        for (var i = slice; i < count; i += SLICES) {
            let value = quad_of(values[(kv_head * p.capacity + tile + i) * QUADS + quad_number]);
            for (var four = 0u; four < FOURS; four += 1u) {
                let weight = memory[WEIGHTS + i * FOURS + four];
                acc[four] += weight * value.x;
                acc[FOURS + four] += weight * value.y;
                acc[2u * FOURS + four] += weight * value.z;
                acc[3u * FOURS + four] += weight * value.w;
            }
        }
    }

    for (var four = 0u; four < FOURS; four += 1u) {
        let sum = workgroup_sum4(sums[four], l);
        // Two of a lane's channels at a time: less memory.
        for (var base = 0u; base < 4u; base += 2u) {
            workgroupBarrier();
            memory[2u * l.lane] = acc[base * FOURS + four];
            memory[2u * l.lane + 1u] = acc[(base + 1u) * FOURS + four];
            workgroupBarrier();
            for (var i = l.lane; i < HEAD_DIM / 2u; i += TILE) {
                var total = vec4(0.0);
                for (var s = 0u; s < SLICES; s += 1u) {
                    total += memory[s * HEAD_DIM / 2u + i];
                }
                if p.splits == 1u {
                    total /= sum;
                }
                let channel = i / 2u * 4u + base + i % 2u;
                for (var h = 0u; h < 4u; h += 1u) {
                    if four * 4u + h < GROUP {
                        let part = (first_head + four * 4u + h) * p.splits + split;
                        store(part * HEAD_DIM + channel, total[h]);
                    }
                }
            }
        }
        if l.lane < 4u && four * 4u + l.lane < GROUP && p.splits > 1u {
            let part = (first_head + four * 4u + l.lane) * p.splits + split;
            store_stats(part, vec2(largest[four][l.lane], sum[l.lane]));
        }
    }
}
