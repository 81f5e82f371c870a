// Attention of absorbed queries to latents, split over the context (flash decoding): one workgroup for a few heads and each part of
// the context, with a running softmax in f32. The cache is keys and values at once, so that heads share what is read.
//
// bindings   0 q: f32 [rows, heads, WIDTH], absorbed and rotated; 1 cache: f16 [capacity, WIDTH], in eights; 2 parts: f32 [rows, heads,
//            splits, RANK]; 3 stats: f32 [rows, heads, splits, 2], of attention_decode
// grid       x: splits; y: ceil(heads / HEADS); z: rows
// scalars    row r sees positions 0 ..= position + r; split s sees those from s·per_split on, per_split of them. With one split `parts` is
//            the result and `stats` stays untouched
// constants  RANK: a latent's width, a multiple of 64 up to 4 WG; WIDTH: with what rotates, a multiple of 8; HEADS: of a workgroup; WG:
//            workgroup size, a power of two, at least 64; memory of 16 (WIDTH / 8 (8 F + 1) + (WG + 32) F) bytes, F = ceil(HEADS / 4)
//
// Scores: WG / 32 lanes hold one of 32 positions, each every so many eights of its channels. Values: a lane holds four channels of
// every SLICES-th position.

const RANK = {{RANK}}u;
const WIDTH = {{WIDTH}}u;
const HEADS = {{HEADS}}u;
// Heads in fours; what is beyond HEADS is computed with zeros and not written.
const FOURS = (HEADS + 3u) / 4u;
const LANES = {{WG}}u;
const POSITIONS = 32u;
const EIGHTS = WIDTH / 8u;
// Lanes of a position.
const SHARES = LANES / POSITIONS;
const QUADS = RANK / 4u;
const SLICES = LANES / QUADS;
// Queries of an eight, and one more place, so that lanes that read different eights read different banks.
const STRIDE = 8u * FOURS + 1u;
const LOWEST = -1e30;
const LOG2_E = 1.4426950408889634;

struct Params {
    heads: u32,
    position: u32,
    splits: u32,
    per_split: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> cache: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> parts: array<f32>;
@group(0) @binding(3) var<storage, read_write> stats: array<vec2<f32>>;
var<immediate> p: Params;

// [eight][channel][four].
var<workgroup> queries: array<vec4<f32>, EIGHTS * STRIDE>;
// Shares of scores [share][position][four]; in the end sums over slices.
var<workgroup> shares: array<vec4<f32>, LANES * FOURS>;
// Scores, then weights [position][four].
var<workgroup> weights: array<vec4<f32>, POSITIONS * FOURS>;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let split = group.x;
    let row = group.z;
    let first_head = row * p.heads + group.y * HEADS;
    let count = min(HEADS, p.heads - group.y * HEADS);
    let start = split * p.per_split;
    let end = min(start + p.per_split, p.position + row + 1u);

    for (var i = lane; i < WIDTH * FOURS; i += LANES) {
        let channel = i % WIDTH;
        let four = i / WIDTH;
        var query = vec4(0.0);
        for (var h = 0u; h < 4u; h += 1u) {
            if four * 4u + h < count {
                query[h] = q[(first_head + four * 4u + h) * WIDTH + channel];
            }
        }
        queries[channel / 8u * STRIDE + channel % 8u * FOURS + four] = query * (p.scale * LOG2_E);
    }

    let share = lane % SHARES;
    let own = lane / SHARES;
    let quad = lane % QUADS;
    let slice = lane / QUADS;
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

    for (var tile = start; tile < end; tile += POSITIONS) {
        // Queries are there; weights and shares of the last tile are read.
        workgroupBarrier();
        let position = min(tile + own, end - 1u);
        var scores: array<vec4<f32>, FOURS>;
        for (var four = 0u; four < FOURS; four += 1u) {
            scores[four] = vec4(0.0);
        }
        for (var eight = share; eight < EIGHTS; eight += SHARES) {
            let words = cache[position * EIGHTS + eight];
            let at = eight * STRIDE;
            let k0 = unpack2x16float(words.x);
            let k1 = unpack2x16float(words.y);
            let k2 = unpack2x16float(words.z);
            let k3 = unpack2x16float(words.w);
            for (var four = 0u; four < FOURS; four += 1u) {
                var score = scores[four];
                score += queries[at + four] * k0.x;
                score += queries[at + FOURS + four] * k0.y;
                score += queries[at + 2u * FOURS + four] * k1.x;
                score += queries[at + 3u * FOURS + four] * k1.y;
                score += queries[at + 4u * FOURS + four] * k2.x;
                score += queries[at + 5u * FOURS + four] * k2.y;
                score += queries[at + 6u * FOURS + four] * k3.x;
                score += queries[at + 7u * FOURS + four] * k3.y;
                scores[four] = score;
            }
        }
        for (var four = 0u; four < FOURS; four += 1u) {
            shares[(share * POSITIONS + own) * FOURS + four] = scores[four];
        }
        workgroupBarrier();
        for (var i = lane; i < POSITIONS * FOURS; i += LANES) {
            var score = vec4(0.0);
            for (var s = 0u; s < SHARES; s += 1u) {
                score += shares[s * POSITIONS * FOURS + i];
            }
            weights[i] = select(vec4(LOWEST), score, tile + i / FOURS < end);
        }
        workgroupBarrier();
        var tops: array<vec4<f32>, FOURS>;
        for (var four = 0u; four < FOURS; four += 1u) {
            var top = largest[four];
            for (var i = 0u; i < POSITIONS; i += 1u) {
                top = max(top, weights[i * FOURS + four]);
            }
            tops[four] = top;
        }
        // All have seen the scores.
        workgroupBarrier();
        for (var i = lane; i < POSITIONS * FOURS; i += LANES) {
            let seen = tile + i / FOURS < end;
            weights[i] = select(vec4(0.0), exp2(weights[i] - tops[i % FOURS]), seen);
        }
        for (var four = 0u; four < FOURS; four += 1u) {
            let shrink = exp2(largest[four] - tops[four]);
            largest[four] = tops[four];
            sums[four] *= shrink;
            for (var c = 0u; c < 4u; c += 1u) {
                acc[c * FOURS + four] *= shrink;
            }
        }
        workgroupBarrier();
        let positions = min(end - tile, POSITIONS);
        if slice < SLICES {
            for (var i = slice; i < positions; i += SLICES) {
                let words = cache[(tile + i) * EIGHTS + quad / 2u];
                let half = select(words.xy, words.zw, quad % 2u == 1u);
                let low = unpack2x16float(half.x);
                let high = unpack2x16float(half.y);
                for (var four = 0u; four < FOURS; four += 1u) {
                    let weight = weights[i * FOURS + four];
                    sums[four] += weight;
                    acc[four] += weight * low.x;
                    acc[FOURS + four] += weight * low.y;
                    acc[2u * FOURS + four] += weight * high.x;
                    acc[3u * FOURS + four] += weight * high.y;
                }
            }
        }
    }

    for (var four = 0u; four < FOURS; four += 1u) {
        var sum = vec4(0.0);
        // The sum of weights, and then the lane's channels, over slices.
        for (var c = 0u; c < 5u; c += 1u) {
            workgroupBarrier();
            if slice < SLICES {
                if c == 0u {
                    shares[lane] = sums[four];
                } else {
                    shares[lane] = acc[(c - 1u) * FOURS + four];
                }
            }
            workgroupBarrier();
            var total = vec4(0.0);
            for (var s = 0u; s < SLICES; s += 1u) {
                total += shares[s * QUADS + quad];
            }
            if c == 0u {
                sum = total;
                continue;
            }
            if p.splits == 1u {
                total /= sum;
            }
            if lane < QUADS {
                for (var h = 0u; h < 4u; h += 1u) {
                    if four * 4u + h < count {
                        let part = (first_head + four * 4u + h) * p.splits + split;
                        parts[part * RANK + 4u * quad + c - 1u] = total[h];
                    }
                }
            }
        }
        if lane < 4u && four * 4u + lane < count && p.splits > 1u {
            let part = (first_head + four * 4u + lane) * p.splits + split;
            stats[part] = vec2(largest[four][lane], sum[lane]);
        }
    }
}
