// All that comes before a routed block's experts, in one dispatch, for few rows: n = rms_norm(x), logits = n · Wᵀ, and the
// experts of each row as common/choose chooses them. Every workgroup norms its row for itself, which costs less than a
// dispatch; the first of a row writes n. The last workgroup of a row to arrive chooses, and sets the row's counter back to 0.
//
// bindings   0 x: f32 [rows, width]; 1 norm: f32 [width]; 2 router: [experts, stride words] in FORMAT, packed in words, what is
//            beyond `width` zero; 3 extra: a row as the router's, that of a shared expert's gate, if GATED; f32 [experts], of
//            common/choose, if CORRECTED; otherwise anything; 4 normed: f32 [rows, width]; 5 choices: u32 [rows, top_k], the experts,
//            from word `weights_at` on f32 [rows, top_k], their weights, if GATED behind them f32 [rows], the gate's logits, and
//            from word `logits_at` on f32 [rows, experts]; 6 flags: u32, of common/guard; 7 counters: u32 [rows], zeros. If SHARED
//            each row has a choice more, of number `experts`, whose weight is the sigmoid of its gate's logit if GATED, else 1
// grid       x: ceil(experts / PER_GROUP), of one expert more if GATED; y: rows
// scalars    experts ≤ MAX_EXPERTS, 1 ≤ top_k ≤ experts; normalize ≠ 0 divides by the sum over the chosen; kept, scale: of
//            common/choose
// constants  PER_GROUP: experts of a workgroup, 1 to 3; FORMAT: f32 | f16 | bf16; GATED: true | false, not with CORRECTED; SHARED:
//            true | false; WG, MAX_EXPERTS, SIGMOID, CORRECTED, GROUPS, REDUCE: of common/choose

//!use common/choose
//!use common/dense_{{FORMAT}}
//!use common/guard
//!use common/reduce4_{{REDUCE}}

struct Params {
    width: u32,
    stride: u32,
    experts: u32,
    top_k: u32,
    normalize: u32,
    flag: u32,
    weights_at: u32,
    logits_at: u32,
    kept: u32,
    scale: f32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> norm: array<f32>;
@group(0) @binding(2) var<storage, read> router: array<u32>;
@group(0) @binding(3) var<storage, read> extra: array<u32>;
@group(0) @binding(4) var<storage, read_write> normed: array<f32>;
// Logits are written by some workgroups and read by another: only atomic accesses are sure to be seen.
@group(0) @binding(5) var<storage, read_write> choices: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read_write> flags: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> counters: array<atomic<u32>>;
var<immediate> p: Params;

var<workgroup> arrived: u32;

fn guarded(row: u32, i: u32) -> f32 {
    return x[row * p.width + i];
}

fn logit_of(row: u32, expert: u32) -> f32 {
    return bitcast<f32>(atomicLoad(&choices[p.logits_at + row * p.experts + expert]));
}

fn correction_of(expert: u32) -> f32 {
    return bitcast<f32>(extra[expert]);
}

// Where a row's choices begin.
fn choices_of(row: u32) -> u32 {
    return row * (p.top_k + select(0u, 1u, {{SHARED}}));
}

// Where the logit of a row's gate is: for a choice, where its weight will be.
fn gate_of(row: u32, rows: u32) -> u32 {
    return p.weights_at + select(rows * p.top_k + row, choices_of(row) + p.top_k, {{SHARED}});
}

fn choose(row: u32, slot: u32, expert: u32, weight: f32) {
    let at = choices_of(row) + slot;
    atomicStore(&choices[at], expert);
    atomicStore(&choices[p.weights_at + at], bitcast<u32>(weight));
}

// A word of an expert's row; behind the last expert's, of the gate's.
fn router_word(expert: u32, word: u32) -> u32 {
    if {{GATED}} && expert == p.experts {
        return extra[word];
    }
    return router[expert * p.stride + word];
}

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    l: Lanes,
) {
    let row = group.y;
    let start = row * p.width;
    let words = (p.width + PER_WORD - 1u) / PER_WORD;
    let first = group.x * {{PER_GROUP}}u;
    let last = p.experts - select(1u, 0u, {{GATED}});
    // The sum of squares, and products with the experts' rows before the norm's factor: one reduction for all.
    var sums = vec4(0.0);
    for (var word = l.lane; word < words; word += {{WG}}u) {
        let column = word * PER_WORD;
        var v = vec2(x[start + column], 0.0);
        var n = vec2(norm[column], 0.0);
        if PER_WORD == 2u && column + 1u < p.width {
            v.y = x[start + column + 1u];
            n.y = norm[column + 1u];
        }
        sums.x += dot(v, v);
        let scaled = v * n;
        for (var i = 0u; i < {{PER_GROUP}}u; i += 1u) {
            sums[i + 1u] += dot(scaled, widen(router_word(min(first + i, last), word)));
        }
    }
    sums = workgroup_sum4(sums, l);
    let factor = 1.0 / sqrt(sums.x / f32(p.width) + p.epsilon);
    if group.x == 0u {
        for (var i = l.lane; i < p.width; i += {{WG}}u) {
            normed[start + i] = x[start + i] * factor * norm[i];
        }
        if is_bad_logit(sums.x) {
            guard(row, p.width, l);
        }
    }
    if l.lane == 0u {
        for (var i = 0u; i < {{PER_GROUP}}u; i += 1u) {
            let logit = sums[i + 1u] * factor;
            if first + i < p.experts {
                let at = p.logits_at + row * p.experts + first + i;
                atomicStore(&choices[at], bitcast<u32>(logit));
            } else if first + i == last {
                atomicStore(&choices[gate_of(row, groups.y)], bitcast<u32>(logit));
            }
        }
    }
    // Logits are out before the workgroup counts as arrived.
    storageBarrier();
    if l.lane == 0u {
        arrived = atomicAdd(&counters[row], 1u);
    }
    if workgroupUniformLoad(&arrived) + 1u < groups.x {
        return;
    }
    storageBarrier();
    if l.lane == 0u {
        atomicStore(&counters[row], 0u);
    }
    choose_experts(row, l);
    if {{SHARED}} && l.lane == 0u {
        var weight = 1.0;
        if {{GATED}} {
            weight = 1.0 / (1.0 + exp(-bitcast<f32>(atomicLoad(&choices[gate_of(row, groups.y)]))));
        }
        choose(row, p.top_k, p.experts, weight);
    }
}
