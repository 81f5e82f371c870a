// Rounds a block of up to 128 inputs of all outputs, in the order of the sweep, each after what the errors of those before it ask of it:
// t = w + Σ / V_ii, q = Q(t), error = w - q. V is the factor turned round: V_ji = lower[n - 1 - j][n - 1 - i].
//
// bindings   0 weights: f32 [outputs, n]; 1 order: u32 [n]; 2 lower: f32 [n, n]; 3 scales: f32 [outputs, n / group]; 4 rungs: u32
//            [outputs, n / group], zeros in the high halves; 5 sums: f32 [outputs, n] by step, of the blocks before; 6 errors: f32
//            [outputs, n] by step; 7 codes: u32 [outputs, n] by input
// grid       x: ceil(outputs / 16)
// constants  GRID: int | e2m1

struct Params {
    outputs: u32,
    n: u32,
    group: u32,
    first: u32,
    top: f32,
}

@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> lower: array<f32>;
@group(0) @binding(3) var<storage, read> scales: array<f32>;
@group(0) @binding(4) var<storage, read> rungs: array<u32>;
@group(0) @binding(5) var<storage, read> sums: array<f32>;
@group(0) @binding(6) var<storage, read_write> errors: array<f32>;
@group(0) @binding(7) var<storage, read_write> codes: array<u32>;
var<immediate> p: Params;

//!use quantize/grid_{{GRID}}

const BLOCK = 128u;
// Inputs whose errors are handed on one by one; a lane each.
const RUN = 16u;
// Rows begin half of the banks, and one bank, apart.
const SUMS = BLOCK + 16u;
const ERRORS = RUN + 1u;

var<workgroup> block_sums: array<f32, 16u * SUMS>;
var<workgroup> run_errors: array<f32, 16u * ERRORS>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let own = lane % RUN;
    let slot = lane / RUN;
    let output = min(16u * group.x + slot, p.outputs - 1u);
    let is_there = 16u * group.x + slot < p.outputs;
    let row = output * p.n;
    let last = p.n - 1u;
    let end = min(p.first + BLOCK, p.n);
    for (var step = p.first + own; step < end; step += RUN) {
        var sum = 0.0;
        if p.first > 0u {
            sum = sums[row + step];
        }
        block_sums[slot * SUMS + step - p.first] = sum;
    }
    for (var start = p.first; start < end; start += RUN) {
        let step = min(start + own, last);
        let input = order[step];
        let scale_at = output * (p.n / p.group) + input / p.group;
        let weight = weights[row + input];
        let scale = scales[scale_at];
        let zero = f32(rungs[scale_at] >> 16u);
        let diagonal = lower[(last - step) * (p.n + 1u)];
        var sum = block_sums[slot * SUMS + min(step - p.first, BLOCK - 1u)];
        var error = 0.0;
        var code = 0u;
        // The errors of the run before are read no more.
        workgroupBarrier();
        for (var i = 0u; i < min(RUN, end - start); i += 1u) {
            let factor = lower[(last - start - i) * p.n + last - step];
            if own == i {
                let value = round_to((weight + sum / diagonal) / scale, zero, p.top);
                error = weight - value * scale;
                code = code_of(value, zero);
                run_errors[slot * ERRORS + i] = error;
            }
            workgroupBarrier();
            // Those that are rounded already add up what nobody reads.
            sum = fma(factor, run_errors[slot * ERRORS + i], sum);
        }
        if is_there && start + own < end {
            errors[row + step] = error;
            codes[row + input] = code;
        }
        for (var later = start + RUN + own; later < end; later += RUN) {
            var all = block_sums[slot * SUMS + later - p.first];
            for (var i = 0u; i < RUN; i += 1u) {
                let factor = lower[(last - start - i) * p.n + last - later];
                all = fma(factor, run_errors[slot * ERRORS + i], all);
            }
            block_sums[slot * SUMS + later - p.first] = all;
        }
    }
}
