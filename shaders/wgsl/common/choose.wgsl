// The top_k experts of a row of logits, by falling logit, the lower number first among equals, and their softmax weights
// (GShard, arXiv 2006.16668, §2.2). A row with NaN, +∞ or nothing finite raises its flag; its experts are then distinct
// and in range all the same, and its weights unspecified. All lanes must call.
//
// The user has experts, top_k, normalize and flag among its scalars, declares `flags`, and names `logit_of` (row, expert) and
// `choose` (row, slot, expert, weight).
//
// constants  WG: workgroup size, a power of two; MAX_EXPERTS: at most 3072; REDUCE: subgroup | workgroup
//
// Each lane counts how many experts are ahead of its own: that is the slot. No rounds, and no order but the logits'.

//!use common/reduce_{{REDUCE}}
//!use common/order

// Experts of a lane.
const OWN = ({{MAX_EXPERTS}}u + {{WG}}u - 1u) / {{WG}}u;

var<workgroup> order_keys: array<u32, {{MAX_EXPERTS}}>;

fn choose_experts(row: u32, l: Lanes) {
    var largest = -3.4028235e38;
    var bad = false;
    for (var e = l.lane; e < p.experts; e += {{WG}}u) {
        let logit = logit_of(row, e);
        order_keys[e] = order_key(logit);
        bad = bad || is_bad_logit(logit);
        largest = max(largest, logit);
    }
    largest = workgroup_max(largest, l);
    if bad || largest == -3.4028235e38 {
        atomicStore(&flags[p.flag], 1u);
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
            sum += exp(logit_of(row, e) - largest);
        }
    }
    let total = workgroup_sum(sum, l);
    for (var i = 0u; i < OWN; i += 1u) {
        let e = i * {{WG}}u + l.lane;
        if e >= p.experts {
            break;
        }
        if slots[i] < p.top_k {
            choose(row, slots[i], e, exp(logit_of(row, e) - largest) / total);
        }
    }
}
