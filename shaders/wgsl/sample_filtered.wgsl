// The last step of sampling with temperature and filters, for one row: tokens ranked by falling logit, the lower id first
// among equals; of these a prefix is kept, the shortest that top_k, top_p (arXiv 1904.09751) and min_p (arXiv 2407.01082) ask
// for; and of the kept, the token in whose share of the weights, laid end to end, the fraction `draw` of their sum falls.
// After sample_histogram.
//
// bindings   0 logits: f32 [vocabulary]; 1 maxima: u32 [chunks, 2]; 2 bins: u32 [chunks, 256, 2]; 3 sums: u32 [chunks, 4];
//            4 tokens: u32 [1]; 5 flags: u32, of which number `flag` becomes 1 where the logits have NaN, +∞ or nothing finite;
//            the token is then 0
// grid       one workgroup of 256
// scalars    top_k 0, top_p 1 and min_p 0 keep all; min_p is that of sample_histogram; 0 ≤ draw < 1
// constants  WG: 256
//
// Each question is of one form: at which token does the count or the weight, summed along the ranking, pass some value? Bins
// say in which bin; if it has few tokens they are gathered and ranked by counting, else the bin is cut by the digits of the
// logits' keys until few are left, or all left are equal and go by id. Sums within a bin are of integers, in any order.

//!use common/first
//!use common/order
//!use common/softmax

// Tokens that are ranked by counting.
const CAPACITY = 512u;
// Units of weight, relative to a bin's largest.
const ONE = 1048576.0;
// What is summed: tokens; weight, up to where it reaches the value; weight, up to where it exceeds it.
const COUNT = 0u;
const REACH = 1u;
const EXCEED = 2u;

struct Params {
    vocabulary: u32,
    chunks: u32,
    top_k: u32,
    flag: u32,
    inverse_temperature: f32,
    top_p: f32,
    min_p: f32,
    draw: f32,
}

// A token, and the weight of all up to it and with it.
struct Crossing {
    token: vec2<u32>,
    mass: f32,
}

// What is known of the token that is looked for: its bin, the digits of its key so far, how many tokens share these; and
// what is left of the value, and the weight before, in units.
struct Search {
    bin: u32,
    digits: u32,
    known: u32,
    count: u32,
    rest: f32,
    before: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> maxima: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> bins: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> sums: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(5) var<storage, read_write> flags: array<u32>;
var<immediate> p: Params;

// Sums over bins, up to each and with it.
var<workgroup> counts: array<u32, BINS>;
var<workgroup> masses: array<f32, BINS>;
// Of each digit: tokens, and the upper and lower half of their weight in units.
var<workgroup> digit_counts: array<atomic<u32>, 256>;
var<workgroup> digit_highs: array<atomic<u32>, 256>;
var<workgroup> digit_lows: array<atomic<u32>, 256>;
var<workgroup> gathered: atomic<u32>;
// Tokens and their units.
var<workgroup> list: array<vec2<u32>, CAPACITY>;
var<workgroup> list_units: array<u32, CAPACITY>;
var<workgroup> search: Search;
var<workgroup> crossing: Crossing;
var<workgroup> largest: f32;

fn gap_at(key: u32) -> f32 {
    return gap_of(from_order_key(key), largest, p.inverse_temperature);
}

// Units of a token of the search's bin.
fn units(key: u32, bin: u32) -> u32 {
    return fixed_in(bin, gap_at(key), ONE);
}

// What a token of so many units adds to the sum.
fn step_of(what: u32, unit: u32) -> u32 {
    return select(unit, 1u, what == COUNT);
}

// Whether a sum is where it is to be.
fn passes(what: u32, sum: f32, value: f32) -> bool {
    return select(sum >= value, sum > value, what == EXCEED);
}

fn has_digits(key: u32, s: Search) -> bool {
    return bin_of(gap_at(key)) == s.bin && (key & s.known) == s.digits;
}

// The token at which `what` passes `value`. All lanes call; the answer is in `crossing`.
fn find(what: u32, value: f32, lane: u32) {
    // In which bin: of the lanes whose bin passes, the first; if rounding lets none pass, the last with any weight.
    let mass = masses[lane];
    let mass_before = select(masses[max(lane, 1u) - 1u], 0.0, lane == 0u);
    let count = counts[lane];
    let count_before = select(counts[max(lane, 1u) - 1u], 0u, lane == 0u);
    let sum = select(mass, f32(count), what == COUNT);
    var candidate = vec2(0u, 0xffffffffu);
    if count > count_before && (what == COUNT || mass > mass_before) {
        candidate = select(vec2(1u, 0xffffffffu - lane), vec2(2u, lane), passes(what, sum, value));
    }
    let first = workgroup_first(candidate, lane);
    let bin = select(0xffffffffu - first.y, first.y, first.x == 2u);
    if lane == bin {
        var rest = max(value - mass_before, 0.0) / top_of(bin) * ONE;
        if what == COUNT {
            rest = value - f32(count_before);
        }
        // Zero would be reached before the first token.
        if what != EXCEED {
            rest = max(rest, 0.5);
        }
        search = Search(bin, 0u, 0u, count - count_before, rest, 0.0);
    }
    for (var shift = 32u; shift > 0u; shift -= 8u) {
        let s = workgroupUniformLoad(&search);
        if s.count > CAPACITY {
            narrow(what, shift - 8u, s, lane);
        }
    }
    let s = workgroupUniformLoad(&search);
    if s.count > CAPACITY {
        find_equal(what, s, lane);
    } else {
        find_listed(what, s, lane);
    }
    let bin_before = select(masses[max(s.bin, 1u) - 1u], 0.0, s.bin == 0u);
    workgroupBarrier();
    if lane == 0u {
        crossing.mass = bin_before + crossing.mass / ONE * top_of(s.bin);
    }
    workgroupBarrier();
}

// One digit more.
fn narrow(what: u32, shift: u32, s: Search, lane: u32) {
    atomicStore(&digit_counts[lane], 0u);
    atomicStore(&digit_highs[lane], 0u);
    atomicStore(&digit_lows[lane], 0u);
    workgroupBarrier();
    for (var chunk = 0u; chunk < p.chunks; chunk += 1u) {
        if bins[chunk * BINS + s.bin].x == 0u {
            continue;
        }
        let end = min((chunk + 1u) * CHUNK, p.vocabulary);
        for (var id = chunk * CHUNK + lane; id < end; id += 256u) {
            let key = order_key(logits[id]);
            if has_digits(key, s) {
                let digit = (key >> shift) & 255u;
                let unit = units(key, s.bin);
                atomicAdd(&digit_counts[digit], 1u);
                atomicAdd(&digit_highs[digit], unit >> 10u);
                atomicAdd(&digit_lows[digit], unit & 1023u);
            }
        }
    }
    workgroupBarrier();
    if lane == 0u {
        var next = s;
        var passed = 0.0;
        var before = 0.0;
        var found = false;
        for (var i = 0u; i < 256u; i += 1u) {
            let digit = 255u - i;
            let count = atomicLoad(&digit_counts[digit]);
            if count == 0u || found {
                continue;
            }
            let mass = f32(atomicLoad(&digit_highs[digit])) * 1024.0
                + f32(atomicLoad(&digit_lows[digit]));
            let step = select(mass, f32(count), what == COUNT);
            // The last that is not passed stays, should rounding let none be.
            next.count = count;
            next.digits = s.digits | (digit << shift);
            next.rest = max(s.rest - passed, 0.0);
            next.before = s.before + before;
            found = passes(what, passed + step, s.rest);
            passed += step;
            before += mass;
        }
        next.known = s.known | (255u << shift);
        search = next;
    }
}

// Few tokens: each counts what is ahead of it.
fn find_listed(what: u32, s: Search, lane: u32) {
    if lane == 0u {
        atomicStore(&gathered, 0u);
    }
    workgroupBarrier();
    for (var chunk = 0u; chunk < p.chunks; chunk += 1u) {
        if bins[chunk * BINS + s.bin].x == 0u {
            continue;
        }
        let end = min((chunk + 1u) * CHUNK, p.vocabulary);
        for (var id = chunk * CHUNK + lane; id < end; id += 256u) {
            let key = order_key(logits[id]);
            if has_digits(key, s) {
                let place = atomicAdd(&gathered, 1u);
                if place < CAPACITY {
                    list[place] = vec2(key, id);
                    list_units[place] = units(key, s.bin);
                }
            }
        }
    }
    workgroupBarrier();
    let count = min(atomicLoad(&gathered), CAPACITY);
    for (var i = lane; i < count; i += 256u) {
        let token = list[i];
        let own = step_of(what, list_units[i]);
        var ahead = 0u;
        var mass_ahead = 0u;
        var behind = 0u;
        for (var other = 0u; other < count; other += 1u) {
            let rival = list[other];
            let step = step_of(what, list_units[other]);
            if is_ahead(rival, token) {
                ahead += step;
                mass_ahead += list_units[other];
            } else if other != i {
                behind += step;
            }
        }
        // Also the last with any weight, should rounding put the value behind all.
        let with_own = passes(what, f32(ahead + own), s.rest) || behind == 0u;
        if own > 0u && with_own && !passes(what, f32(ahead), s.rest) {
            let mass = s.before + f32(mass_ahead + list_units[i]);
            crossing = Crossing(token, mass);
        }
    }
}

// Many tokens of one key: by id.
fn find_equal(what: u32, s: Search, lane: u32) {
    let unit = units(s.digits, s.bin);
    let step = step_of(what, unit);
    let steps = s.rest / f32(max(step, 1u));
    let place = min(u32(select(ceil(steps) - 1.0, steps, what == EXCEED)), s.count - 1u);
    let run = (p.vocabulary + 255u) / 256u;
    let start = min(lane * run, p.vocabulary);
    let end = min(start + run, p.vocabulary);
    var own = 0u;
    for (var id = start; id < end; id += 1u) {
        own += select(0u, 1u, order_key(logits[id]) == s.digits);
    }
    atomicStore(&digit_counts[lane], own);
    workgroupBarrier();
    var before = 0u;
    for (var i = 0u; i < lane; i += 1u) {
        before += atomicLoad(&digit_counts[i]);
    }
    if before <= place && place < before + own {
        for (var id = start; id < end; id += 1u) {
            if order_key(logits[id]) == s.digits {
                if before == place {
                    let mass = s.before + f32(place + 1u) * f32(unit);
                    crossing = Crossing(vec2(s.digits, id), mass);
                }
                before += 1u;
            }
        }
    }
}

@compute @workgroup_size({{WG}})
fn main(@builtin(local_invocation_index) lane: u32) {
    var best = vec2(0u, 0xffffffffu);
    // Upside down, the last token that min_p keeps.
    var least = vec2(0u, 0xffffffffu);
    for (var chunk = lane; chunk < p.chunks; chunk += 256u) {
        if is_ahead(maxima[chunk], best) {
            best = maxima[chunk];
        }
        if is_ahead(~sums[chunk].zw, least) {
            least = ~sums[chunk].zw;
        }
    }
    best = workgroup_first(best, lane);
    least = ~workgroup_first(least, lane);
    let bad = is_bad_largest(best.x);
    var count = 0u;
    var mass = 0.0;
    for (var chunk = 0u; chunk < p.chunks; chunk += 1u) {
        let bin = bins[chunk * BINS + lane];
        count += bin.x;
        mass += bitcast<f32>(bin.y);
    }
    counts[lane] = count;
    masses[lane] = mass;
    if lane == 0u {
        largest = select(from_order_key(best.x), 0.0, bad);
        crossing = Crossing(vec2(0u, 0u), 0.0);
    }
    workgroupBarrier();
    for (var step = 1u; step < BINS; step *= 2u) {
        var more_count = 0u;
        var more_mass = 0.0;
        if lane >= step {
            more_count = counts[lane - step];
            more_mass = masses[lane - step];
        }
        workgroupBarrier();
        counts[lane] += more_count;
        masses[lane] += more_mass;
        workgroupBarrier();
    }

    // What is kept: up to which token, and its weight.
    var kept = masses[BINS - 1u];
    var end = vec2(0u, 0xffffffffu);
    if p.top_k > 0u && p.top_k < p.vocabulary {
        find(COUNT, f32(p.top_k), lane);
        kept = crossing.mass;
        end = crossing.token;
    }
    if p.top_p < 1.0 {
        find(REACH, p.top_p * kept, lane);
        kept = min(kept, crossing.mass);
        if is_ahead(crossing.token, end) {
            end = crossing.token;
        }
    }
    if p.min_p > 0.0 {
        var sum = 0.0;
        for (var chunk = 0u; chunk < p.chunks; chunk += 1u) {
            sum += bitcast<f32>(sums[chunk].y);
        }
        kept = min(kept, sum);
        if is_ahead(least, end) {
            end = least;
        }
    }
    find(EXCEED, p.draw * kept, lane);
    if lane == 0u {
        var token = crossing.token;
        // Rounding must not draw what is not kept.
        if is_ahead(end, token) {
            token = end;
        }
        tokens[0] = select(token.y, 0u, bad);
        if bad {
            flags[p.flag] = 1u;
        }
    }
}
