// The last step of sampling with temperature and no filter, for one row: the token in whose share of the weights, laid end to
// end by id, the fraction `draw` of their sum falls. After sample_histogram.
//
// bindings   0 logits: f32 [vocabulary]; 1 maxima: u32 [chunks, 2]; 2 sums: u32 [chunks, 4]; 3 tokens: u32 [1];
//            4 flags: u32, of which number `flag` becomes 1 where the logits have NaN, +∞ or nothing finite; the token is then 0
// grid       one workgroup of 256
// scalars    0 ≤ draw < 1
// constants  WG: 256

//!use common/first
//!use common/order
//!use common/softmax

const RUN = CHUNK / {{WG}}u;

struct Params {
    vocabulary: u32,
    chunks: u32,
    flag: u32,
    inverse_temperature: f32,
    draw: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> maxima: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> sums: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(4) var<storage, read_write> flags: array<u32>;
var<immediate> p: Params;

var<workgroup> upto: array<f32, {{WG}}>;

@compute @workgroup_size({{WG}})
fn main(@builtin(local_invocation_index) lane: u32) {
    var best = vec2(0u, 0xffffffffu);
    for (var chunk = lane; chunk < p.chunks; chunk += {{WG}}u) {
        if is_ahead(maxima[chunk], best) {
            best = maxima[chunk];
        }
    }
    best = workgroup_first(best, lane);
    let largest = from_order_key(best.x);
    var total = 0.0;
    for (var chunk = 0u; chunk < p.chunks; chunk += 1u) {
        total += bitcast<f32>(sums[chunk].x);
    }
    // The chunk where it falls; where rounding puts it behind all, the last with any weight.
    let target_mass = p.draw * total;
    var chosen = 0u;
    var before = 0.0;
    var reached = 0.0;
    for (var chunk = 0u; chunk < p.chunks; chunk += 1u) {
        let mass = bitcast<f32>(sums[chunk].x);
        if mass > 0.0 && reached <= target_mass {
            chosen = chunk;
            before = reached;
        }
        reached += mass;
    }
    let start = min(chosen * CHUNK + lane * RUN, p.vocabulary);
    let end = min(start + RUN, p.vocabulary);
    var own = 0.0;
    for (var id = start; id < end; id += 1u) {
        own += exp(-gap_of(logits[id], largest, p.inverse_temperature));
    }
    upto[lane] = own;
    workgroupBarrier();
    for (var step = 1u; step < {{WG}}u; step *= 2u) {
        var more = 0.0;
        if lane >= step {
            more = upto[lane - step];
        }
        workgroupBarrier();
        upto[lane] += more;
        workgroupBarrier();
    }
    // The first lane that passes the target, or the last with any weight.
    let rest = target_mass - before;
    var candidate = vec2(0u, 0xffffffffu);
    if own > 0.0 {
        candidate = vec2(1u, 0xffffffffu - lane);
        if upto[lane] > rest {
            candidate = vec2(2u, lane);
        }
    }
    let first = workgroup_first(candidate, lane);
    let walker = select(0xffffffffu - first.y, first.y, first.x == 2u);
    let bad = is_bad_largest(best.x);
    if lane == walker && !bad {
        let origin = upto[lane] - own;
        var sum = origin;
        var token = start;
        for (var id = start; id < end; id += 1u) {
            let weight = exp(-gap_of(logits[id], largest, p.inverse_temperature));
            if weight > 0.0 && (sum <= rest || sum == origin) {
                token = id;
            }
            sum += weight;
        }
        tokens[0] = token;
    }
    if lane == 0u && bad {
        tokens[0] = 0u;
        flags[p.flag] = 1u;
    }
}
