// The second step of sampling with temperature, for one row: of each chunk of 4096 logits, how many tokens and how much weight
// is in each bin (common/softmax), how much in all, and of the tokens that min_p keeps their weight and which is the last.
//
// bindings   0 logits: f32 [vocabulary]; 1 maxima: u32 [chunks, 2], from sample_scan;
//            2 bins: u32 [chunks, 256, 2], a count and the bits of a weight;
//            3 sums: u32 [chunks, 4]: the bits of the weight of all and of what min_p keeps, key and id of the last of these
// grid       x: chunks = ceil(vocabulary / 4096)
// scalars    inverse_temperature finite, at most 1e5
// constants  WG: workgroup size, a power of two, at most 256; REDUCE: subgroup | workgroup

//!use common/first
//!use common/order
//!use common/softmax
//!use common/reduce_{{REDUCE}}

// Of 4096 tokens, at most 2³¹ in all.
const ONE = 524288.0;

struct Params {
    vocabulary: u32,
    inverse_temperature: f32,
    min_p: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> maxima: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> bins: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> sums: array<vec4<u32>>;
var<immediate> p: Params;

var<workgroup> counts: array<atomic<u32>, BINS>;
var<workgroup> masses: array<atomic<u32>, BINS>;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    l: Lanes,
) {
    for (var bin = l.lane; bin < BINS; bin += {{WG}}u) {
        atomicStore(&counts[bin], 0u);
        atomicStore(&masses[bin], 0u);
    }
    var best = vec2(0u, 0xffffffffu);
    for (var chunk = l.lane; chunk < groups.x; chunk += {{WG}}u) {
        let token = maxima[chunk];
        if is_ahead(token, best) {
            best = token;
        }
    }
    // Its barriers also show the zeros to all.
    let largest = from_order_key(workgroup_first(best, l.lane).x);
    var total = 0.0;
    var kept = 0.0;
    var last = vec2(0xffffffffu, 0u);
    let end = min((group.x + 1u) * CHUNK, p.vocabulary);
    for (var id = group.x * CHUNK + l.lane; id < end; id += {{WG}}u) {
        let logit = logits[id];
        let gap = gap_of(logit, largest, p.inverse_temperature);
        let bin = bin_of(gap);
        let weight = exp(-gap);
        atomicAdd(&counts[bin], 1u);
        atomicAdd(&masses[bin], fixed_in(bin, gap, ONE));
        total += weight;
        if weight >= p.min_p {
            kept += weight;
            let token = vec2(order_key(logit), id);
            if is_ahead(last, token) {
                last = token;
            }
        }
    }
    total = workgroup_sum(total, l);
    kept = workgroup_sum(kept, l);
    // The last is the first of an order upside down.
    last = ~workgroup_first(~last, l.lane);
    if l.lane == 0u {
        sums[group.x] = vec4(bitcast<u32>(total), bitcast<u32>(kept), last.x, last.y);
    }
    for (var bin = l.lane; bin < BINS; bin += {{WG}}u) {
        let mass = f32(atomicLoad(&masses[bin])) / ONE * top_of(bin);
        bins[group.x * BINS + bin] = vec2(atomicLoad(&counts[bin]), bitcast<u32>(mass));
    }
}
