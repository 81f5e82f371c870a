// combine_experts and rms_norm in one dispatch: out[r] = residual[r] + Σ_s weights[r][s] · y[place(r, s)], and
// normed[r] = out[r] / sqrt(mean(out[r]²) + epsilon) ∘ norm. One workgroup a row: for one row that is a few loads for each lane, all
// under way at once, which takes less time than another dispatch.
//
// bindings   0 y: f32 [rows·TOP_K, width]; 1 weights: f32 [rows, TOP_K], if SHARED behind them the gate of combine_experts, f32 [rows]; 2
//            residual: f32 [rows, width]; 3 more: u32, the places of combine_experts if PLACES; its shared if SHARED; otherwise anything; 4 norm: f32 [width]; 5 out, 6 normed: f32 [rows, width]; 7 flags:
//            u32, of common/guard. All but weights, more and flags in fours
// grid       x: rows
// scalars    fours: width / 4
// constants  TOP_K; FOURS_UP: fours of a lane, at least fours / WG; PLACES, SHARED: true | false, not both true; WG, REDUCE: of
//            common/rms

//!use common/guard
//!use common/rms

struct Params {
    fours: u32,
    epsilon: f32,
    flag: u32,
}

@group(0) @binding(0) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> more: array<u32>;
@group(0) @binding(4) var<storage, read> norm: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> normed: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> flags: array<atomic<u32>>;
var<immediate> p: Params;

fn shared_four(four: u32) -> vec4<f32> {
    let at = 4u * four;
    return bitcast<vec4<f32>>(vec4(more[at], more[at + 1u], more[at + 2u], more[at + 3u]));
}

fn guarded(row: u32, i: u32) -> f32 {
    return out[row * p.fours + i / 4u][i % 4u];
}

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    l: Lanes,
) {
    let start = group.x * p.fours;
    // Lanes without a four of their own read the last one, so that no load waits for a comparison.
    let last = p.fours - 1u;
    var own: array<vec4<f32>, {{FOURS_UP}}>;
    for (var i = 0u; i < {{FOURS_UP}}u; i += 1u) {
        own[i] = residual[start + min(i * {{WG}}u + l.lane, last)];
    }
    for (var slot = 0u; slot < {{TOP_K}}u; slot += 1u) {
        let choice = group.x * {{TOP_K}}u + slot;
        var place = choice;
        if {{PLACES}} {
            place = more[choice];
        }
        let weight = weights[choice];
        for (var i = 0u; i < {{FOURS_UP}}u; i += 1u) {
            own[i] += weight * y[place * p.fours + min(i * {{WG}}u + l.lane, last)];
        }
    }
    if {{SHARED}} {
        let weight = 1.0 / (1.0 + exp(-weights[groups.x * {{TOP_K}}u + group.x]));
        for (var i = 0u; i < {{FOURS_UP}}u; i += 1u) {
            own[i] += weight * shared_four(start + min(i * {{WG}}u + l.lane, last));
        }
    }
    var squares = 0.0;
    for (var i = 0u; i < {{FOURS_UP}}u; i += 1u) {
        if i * {{WG}}u + l.lane <= last {
            squares += dot(own[i], own[i]);
        }
    }
    squares = workgroup_sum(squares, l);
    let factor = inverse_rms_of(squares, 4u * p.fours, p.epsilon);
    for (var i = 0u; i < {{FOURS_UP}}u; i += 1u) {
        let four = i * {{WG}}u + l.lane;
        if four <= last {
            out[start + four] = own[i];
            normed[start + four] = own[i] * factor * norm[four];
        }
    }
    if is_bad_logit(squares) {
        // What it looks at was written by all lanes.
        storageBarrier();
        guard(group.x, 4u * p.fours, l);
    }
}
