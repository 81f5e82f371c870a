// The closed walks nearest to tiles of 256 weights: tail-biting Viterbi in two passes, as `treillage_trellis::viterbi` describes it. A
// workgroup takes every so many-th tile and goes through it step by step.
//
// Registers are the 16 − K bits that a state hands on. A lane holds the costs of RUN neighbouring ones, or of several such runs,
// LANES · RUN apart. A step shows all of them to the others, 8192 at a time, and extends what they show: state q · 2^(16−K) + e
// enters register e from register q · 2^(16−2K) + e / 2^K. Which branch q was best goes to `traces`; one lane walks back.
//
// Bindings: weights, eight halves to a vector, [vectors, LANES], in the order that lanes take them, on the metric's grid; values
//     f32 [65536], those of states; targets f32 [tiles, 256], in the order of a walk, which become what was found;
//     traces u32 [workgroups, 256, WORDS, LANES]; words u32 [linears, down, across, 8 K].
// Grid: x workgroups, as many as there is room for in `traces`.
// Scalars: tiles `first` to `tiles`; a tile is of linear tile / across, in its row of tiles `row` of `down`; the first pass begins `before` steps ahead of the
//     seam and ends `after` steps behind it, both 1 to 128; lowest, highest and scale map targets to the grid.

struct Params {
    first: u32,
    tiles: u32,
    across: u32,
    down: u32,
    row: u32,
    before: u32,
    after: u32,
    lowest: f32,
    highest: f32,
    scale: f32,
}
var<immediate> p: Params;

const K = {{K}}u;
const LANES = {{LANES}}u;
const RUN = {{RUN}}u;
const WORDS = {{WORDS}}u;
const PER_WORD = {{PER_WORD}}u;

//!use encode/metric_{{METRIC}}

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(2) var<storage, read_write> targets: array<f32>;
@group(0) @binding(3) var<storage, read_write> traces: array<u32>;
@group(0) @binding(4) var<storage, read_write> words: array<u32>;

// Costs shown; between steps whatever lanes have to tell one another.
var<workgroup> costs: array<f32, {{ROOM}}>;

// The least `x` of all lanes.
fn least(x: f32, lane: u32) -> f32 {
    workgroupBarrier();
    costs[lane] = x;
    workgroupBarrier();
    if lane < 32u {
        var own = x;
        for (var other = lane + 32u; other < LANES; other += 32u) {
            own = min(own, costs[other]);
        }
        costs[lane] = own;
    }
    workgroupBarrier();
    var all = costs[0];
    for (var i = 1u; i < 32u; i += 1u) {
        all = min(all, costs[i]);
    }
    workgroupBarrier();
    return all;
}

// The branch into register `e` at `step`, as lanes left it.
fn traced(slot: u32, step: u32, e: u32) -> u32 {
    let run = e / RUN;
    let held = run / LANES * RUN + e % RUN;
    let word = traces[slot + (step * WORDS + held / PER_WORD) * LANES + run % LANES];
    return (word >> (held % PER_WORD * K)) & ((1u << K) - 1u);
}

// The same for a walk that began at `start`, what is left of which fixes the bits that drop out.
fn tied_branch(branch: u32, step: u32, start: u32) -> u32 {
    let known = 16u - K - min(step * K, 16u - K);
    let kept = start & ((1u << known) - 1u);
    if known >= K {
        return kept >> (known - K);
    }
    let open = K - known;
    return (kept << open) | (branch & ((1u << open) - 1u));
}

@compute @workgroup_size({{LANES}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let slot = group.x * 256u * WORDS * LANES;
    {{PLACES}}
    for (var tile = p.first + group.x; tile < p.tiles; tile += groups.x) {
        var seam = 0u;
        for (var pass_ = 0u; pass_ < 2u; pass_ += 1u) {
            let tied = pass_ == 1u;
            let first = select(256u - p.before, 0u, tied);
            let steps = select(p.before + p.after, 256u, tied);
            let kept = select(p.before, 0u, tied);
            {{BEGIN}}
            var ahead = on_grid(targets[tile * 256u + first % 256u]);
            for (var step = 0u; step < steps; step += 1u) {
                let wanted = ahead;
                ahead = on_grid(targets[tile * 256u + (first + step + 1u) % 256u]);
                {{RENORMALIZE}}
                {{EXTEND}}
                if step >= kept {
                    let to = slot + (step - kept) * (WORDS * LANES) + lane;
                    {{TRACE}}
                }
                {{KEEP}}
            }
            if !tied {
                var cheapest = c0;
                var at = {{FIRST}};
                {{CHEAPEST}}
                let best = least(cheapest, lane);
                seam = u32(least(select(65536.0, f32(at), cheapest == best), lane));
            }
            // What all lanes wrote, one reads; what it finds, all read.
            storageBarrier();
            workgroupBarrier();
            if lane == 0u {
                var e = seam;
                for (var step = steps - kept; step > 0u; step -= 1u) {
                    var branch = traced(slot, step - 1u, e);
                    if tied {
                        branch = tied_branch(branch, step - 1u, seam);
                    }
                    let state = (branch << (16u - K)) | e;
                    e = state >> K;
                    costs[step - 1u] = f32(state);
                }
            }
            workgroupBarrier();
            seam = u32(costs[0]) >> K;
            storageBarrier();
        }
        let place = (tile / p.across * p.down + p.row) * p.across + tile % p.across;
        for (var word = lane; word < 8u * K; word += LANES) {
            var bits = 0u;
            for (var step = 32u * word / K; step * K < 32u * (word + 1u); step += 1u) {
                let fresh = u32(costs[step]) & ((1u << K) - 1u);
                let end = (step + 1u) * K;
                let stop = 32u * (word + 1u);
                bits |= select(fresh >> ((end - stop) % 32u), fresh << ((stop - end) % 32u), end <= stop);
            }
            words[place * 8u * K + word] = bits;
        }
        for (var step = lane; step < 256u; step += LANES) {
            targets[tile * 256u + step] = values[u32(costs[step])];
        }
        storageBarrier();
        workgroupBarrier();
    }
}
