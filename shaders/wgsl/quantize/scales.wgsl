// Scales of groups, by the largest magnitude or by the least error among those that a file can hold: treillage_gptq::choose_scales. A
// rung is the bits that a scale is stored as. A lane scores a rung, in the order of weights.
//
// bindings   0 weights: f32 [outputs, n]; 1 importance: f32 [n]; 2 rungs: u32 [count], zeros in the high halves; 3 scales: f32 [count];
//            4 state: f32 largest magnitude, then u32, 1 if a scale is too large for its type
// grid       x · y: at least count, a workgroup each
// scalars    numerator / denominator: of a group's larger end, or with a choice of zeros of its extent, a scale; search: 1, or 0 for
//            the largest magnitude's; step, down, up, least, most: rungs between those tried first, how far from the largest magnitude's
//            they go, and where they end; batch: tried together by the CPU, which decides ties; zeros: tried with each; top: the
//            greatest code, or magnitude; middle: where zero lies if none is chosen; factor, carry, below: see the ladders
// constants  GRID: int | e2m1; LADDER: f16 | bf16 | e4m3 | e8m0

struct Params {
    count: u32,
    n: u32,
    group: u32,
    search: u32,
    step: u32,
    down: u32,
    up: u32,
    least: u32,
    most: u32,
    batch: u32,
    zeros: u32,
    carry: u32,
    below: u32,
    numerator: f32,
    denominator: f32,
    top: f32,
    middle: f32,
    factor: f32,
}

@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read> importance: array<f32>;
@group(0) @binding(2) var<storage, read_write> rungs: array<u32>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<u32>;
var<immediate> p: Params;

//!use quantize/grid_{{GRID}}
//!use quantize/ladder_{{LADDER}}

const LANES = 64u;
const FINE = 16u;
const LARGEST = 3.4028234e38;

var<workgroup> a: array<f32, LANES>;
var<workgroup> b: array<f32, LANES>;
var<workgroup> keys: array<u32, LANES>;

// The least and the greatest of the lanes' values.
fn extent(low: f32, high: f32, lane: u32) -> vec2<f32> {
    a[lane] = low;
    b[lane] = high;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            a[lane] = min(a[lane], a[lane + half]);
            b[lane] = max(b[lane], b[lane + half]);
        }
    }
    workgroupBarrier();
    let both = vec2(a[0], b[0]);
    workgroupBarrier();
    return both;
}

// The lane with the least score, among equals that with the least key.
fn best_of(score: f32, key: u32, lane: u32) -> vec2<u32> {
    a[lane] = score;
    keys[lane] = key;
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let other = a[lane + half];
            if other < a[lane] || (other == a[lane] && keys[lane + half] < keys[lane]) {
                a[lane] = other;
                keys[lane] = keys[lane + half];
            }
        }
    }
    workgroupBarrier();
    let best = vec2(bitcast<u32>(a[0]), keys[0]);
    workgroupBarrier();
    return best;
}

fn zero_of(ends: vec2<f32>, scale: f32, choice: u32) -> f32 {
    if p.zeros == 1u {
        return p.middle;
    }
    // The lowest weight is the lowest code, or both ends are clipped alike.
    let lowest = -ends.x / scale;
    let even = (p.top - (ends.x + ends.y) / scale) / 2.0;
    return round(clamp(select(even, lowest, choice == 0u), 0.0, p.top));
}

fn score(start: u32, first: u32, rung: u32, zero: f32) -> f32 {
    let scale = value_of(rung);
    let inverse = 1.0 / scale;
    var sum = 0.0;
    for (var i = 0u; i < p.group; i += 1u) {
        let weight = weights[start + i];
        let error = weight - round_to(weight * inverse, zero, p.top) * scale;
        sum += error * error * importance[first + i];
    }
    return sum;
}

// The rung that is tried in place `i`.
fn rung_at(i: u32, highest: u32, begin: u32) -> u32 {
    return max(highest - min(i / p.zeros * p.step, highest), begin);
}

// `i`, once `x` and `y` have changed places.
fn swapped(i: u32, x: u32, y: u32) -> u32 {
    return select(select(i, x, i == y), y, i == x);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = group.y * groups.x + group.x;
    if at >= p.count {
        return;
    }
    let start = at * p.group;
    let first = start % p.n;
    var low = 0.0;
    var high = 0.0;
    for (var i = lane; i < p.group; i += LANES) {
        low = min(low, weights[start + i]);
        high = max(high, weights[start + i]);
    }
    let ends = extent(low, high, lane);
    let absmax = max(ends.y, -ends.x);
    let reach = select(absmax, ends.y - ends.x, p.zeros == 2u);
    let minmax = rung_of(p.numerator * reach / p.denominator, absmax);
    if lane == 0u && minmax > p.most {
        state[1] = 1u;
    }
    let begin = max(max(minmax, p.down) - p.down, p.least);
    let end = min(minmax + p.up, p.most);
    let highest = minmax + (max(end, minmax) - minmax) / p.step * p.step;
    let searches = p.search == 1u && ends.x < ends.y && minmax <= p.most;
    let batches = (highest - min(begin, highest)) / (p.batch / p.zeros * p.step) + 1u;
    let count = select(0u, batches * p.batch, searches);
    // Among equals the first of those that are tried together wins, and before them the largest magnitude's.
    let preferred = (highest - minmax) / p.step * p.zeros;
    let displaced = preferred / p.batch * p.batch;
    var own = LARGEST;
    var key = preferred;
    for (var i = lane; i < count; i += LANES) {
        let rung = rung_at(i, highest, begin);
        let sum = score(start, first, rung, zero_of(ends, value_of(rung), i % p.zeros));
        let rank = swapped(i, preferred, displaced);
        if sum < own || (sum == own && rank < key) {
            own = sum;
            key = rank;
        }
    }
    let coarse = best_of(own, key, lane);
    let chosen = swapped(coarse.y, preferred, displaced);
    var rung = minmax;
    var zero = zero_of(ends, value_of(minmax), 0u);
    if searches {
        rung = rung_at(chosen, highest, begin);
        zero = zero_of(ends, value_of(rung), chosen % p.zeros);
    }
    // Between those tried: from a step below the best to a step above it.
    let fine = max(p.step / 8u, 1u);
    let lowest = max(rung, 8u * fine) - 8u * fine;
    own = LARGEST;
    if searches && p.step > 1u && lane < FINE {
        own = score(start, first, clamp(lowest + lane * fine, begin, end), zero);
    }
    let better = best_of(own, lane, lane);
    if bitcast<f32>(better.x) < bitcast<f32>(coarse.x) {
        rung = clamp(lowest + better.y * fine, begin, end);
    }
    if lane == 0u {
        rungs[at] = rung | u32(zero) << 16u;
        scales[at] = value_of(rung);
    }
}
