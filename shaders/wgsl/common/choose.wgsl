// The top_k experts of a row of logits and their weights. Logits become scores: shares of one (GShard, arXiv 2006.16668, §2.2), or
// sigmoids (DeepSeek-V3, arXiv 2412.19437, §2.1.2). Experts are ranked by them, corrected (arXiv 2408.15664, §2), the lower number
// first among equals; their own scores, divided by their sum if asked for, and scaled, are the weights. A row with NaN, +∞ or nothing
// finite raises its flag; its experts are then distinct and in range all the same, and its weights unspecified. All lanes must call.
//
// The user has experts, top_k, normalize, flag, kept and scale among its scalars, declares `flags`, and names `logit_of` (row,
// expert), `correction_of` (expert) and `choose` (row, slot, expert, weight).
//
// constants  WG: workgroup size, a power of two; MAX_EXPERTS: at most 3072; SIGMOID, CORRECTED: true | false; GROUPS: of experts side
//            by side, of which the `kept` whose two best corrected scores have the largest sums are chosen from, 1 for no limit; it
//            divides experts; REDUCE: subgroup | workgroup
//
// Each lane counts how many experts are ahead of its own: that is the slot. No rounds, and no order but the scores'.

//!use common/reduce_{{REDUCE}}
//!use common/order

// Experts of a lane.
const OWN = ({{MAX_EXPERTS}}u + {{WG}}u - 1u) / {{WG}}u;
// Whether logits are in the order of what experts are ranked by.
const RANKED_BY_LOGITS = !{{SIGMOID}} && !{{CORRECTED}} && {{GROUPS}}u == 1u;
const LOWEST_LOGIT = -3.4028235e38;

var<workgroup> order_keys: array<u32, {{MAX_EXPERTS}}>;
var<workgroup> group_scores: array<f32, {{GROUPS}}>;

// A softmax's are not divided by their sum.
fn score_of(row: u32, expert: u32, largest: f32) -> f32 {
    if {{SIGMOID}} {
        return 1.0 / (1.0 + exp(-logit_of(row, expert)));
    }
    return exp(logit_of(row, expert) - largest);
}

// Puts the experts outside the best groups behind all others.
fn exclude_groups(l: Lanes) {
    let size = p.experts / {{GROUPS}}u;
    workgroupBarrier();
    for (var g = l.lane; g < {{GROUPS}}u; g += {{WG}}u) {
        var best = LOWEST_LOGIT;
        var second = LOWEST_LOGIT;
        for (var i = 0u; i < size; i += 1u) {
            let score = from_order_key(order_keys[g * size + i]);
            second = max(second, min(best, score));
            best = max(best, score);
        }
        group_scores[g] = best + select(0.0, second, size > 1u);
    }
    workgroupBarrier();
    for (var e = l.lane; e < p.experts; e += {{WG}}u) {
        let own = e / size;
        var ahead = 0u;
        for (var g = 0u; g < {{GROUPS}}u; g += 1u) {
            let is_ahead = group_scores[g] > group_scores[own] ||
                (group_scores[g] == group_scores[own] && g < own);
            ahead += select(0u, 1u, is_ahead);
        }
        if ahead >= p.kept {
            order_keys[e] = 0u;
        }
    }
}

fn choose_experts(row: u32, l: Lanes) {
    var largest = LOWEST_LOGIT;
    var bad = false;
    for (var e = l.lane; e < p.experts; e += {{WG}}u) {
        let logit = logit_of(row, e);
        if RANKED_BY_LOGITS {
            order_keys[e] = order_key(logit);
        }
        bad = bad || is_bad_logit(logit);
        largest = max(largest, logit);
    }
    largest = workgroup_max(largest, l);
    if bad || largest == LOWEST_LOGIT {
        atomicStore(&flags[p.flag], 1u);
    }
    if !RANKED_BY_LOGITS {
        var all = 1.0;
        if !{{SIGMOID}} {
            all = 0.0;
            for (var e = l.lane; e < p.experts; e += {{WG}}u) {
                all += score_of(row, e, largest);
            }
            all = workgroup_sum(all, l);
        }
        for (var e = l.lane; e < p.experts; e += {{WG}}u) {
            var score = score_of(row, e, largest) / all;
            if {{CORRECTED}} {
                score += correction_of(e);
            }
            order_keys[e] = order_key(score);
        }
        if {{GROUPS}}u > 1u {
            exclude_groups(l);
        }
    }
    // Not all reductions were behind the keys.
    workgroupBarrier();
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
            sum += score_of(row, e, largest);
        }
    }
    sum = workgroup_sum(sum, l);
    var divisor = sum;
    if {{SIGMOID}} {
        // All may be next to nothing.
        divisor = select(1.0, sum + 1e-30, p.normalize != 0u);
    }
    for (var i = 0u; i < OWN; i += 1u) {
        let e = i * {{WG}}u + l.lane;
        if e >= p.experts {
            break;
        }
        if slots[i] < p.top_k {
            choose(row, slots[i], e, score_of(row, e, largest) / divisor * p.scale);
        }
    }
}
