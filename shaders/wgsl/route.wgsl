// The top_k experts of each row of logits, by falling logit, the lower number first among equals, and their softmax weights
// (GShard, arXiv 2006.16668, §2.2). A row with NaN, +∞ or nothing finite raises its flag; its experts are then distinct
// and in range all the same, and its weights unspecified.
//
// bindings   0 logits: f32 [rows, experts]; 1 chosen: u32 [rows, top_k]; 2 weights: f32 [rows, top_k];
//            3 flags: u32, of which number `flag` becomes 1
// grid       x: rows
// scalars    experts ≤ MAX_EXPERTS, 1 ≤ top_k ≤ experts; normalize ≠ 0 divides by the sum over the chosen instead of over all
// constants  WG: workgroup size, a power of two; MAX_EXPERTS: at most 3072; REDUCE: subgroup | workgroup
//
// Each lane counts how many experts are ahead of its own: that is the slot. No rounds, and no order but the logits'.

//!use common/reduce_{{REDUCE}}
//!use common/order

struct Params {
    experts: u32,
    top_k: u32,
    normalize: u32,
    flag: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> chosen: array<u32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> flags: array<u32>;
var<immediate> p: Params;

// Experts of a lane.
const OWN = ({{MAX_EXPERTS}}u + {{WG}}u - 1u) / {{WG}}u;

var<workgroup> order_keys: array<u32, {{MAX_EXPERTS}}>;

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    let start = group.x * p.experts;
    var largest = -3.4028235e38;
    var bad = false;
    for (var e = l.lane; e < p.experts; e += {{WG}}u) {
        let logit = logits[start + e];
        order_keys[e] = order_key(logit);
        bad = bad || is_bad_logit(logit);
        largest = max(largest, logit);
    }
    largest = workgroup_max(largest, l);
    if bad || largest == -3.4028235e38 {
        flags[p.flag] = 1u;
    }
    // The reduction's barriers made all keys visible.
    var slots: array<u32, OWN>;
    var sum = 0.0;
    for (var i = 0u; i < OWN; i += 1u) {
        let e = i * {{WG}}u + l.lane;
        if e >= p.experts {
            break;
        }
        let own = order_keys[e];
        var slot = 0u;
        for (var other = 0u; other < p.experts; other += 1u) {
            let key = order_keys[other];
            slot += select(0u, 1u, key > own || (key == own && other < e));
        }
        slots[i] = slot;
        if p.normalize == 0u || slot < p.top_k {
            sum += exp(logits[start + e] - largest);
        }
    }
    let total = workgroup_sum(sum, l);
    for (var i = 0u; i < OWN; i += 1u) {
        let e = i * {{WG}}u + l.lane;
        if e >= p.experts {
            break;
        }
        if slots[i] < p.top_k {
            let at = group.x * p.top_k + slots[i];
            chosen[at] = e;
            weights[at] = exp(logits[start + e] - largest) / total;
        }
    }
}
