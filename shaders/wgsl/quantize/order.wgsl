// The order of the sweep, by descending diagonal and among equals by input, and the damping: a fraction of the mean diagonal.
//
// bindings   0 hessian: f32 [n, n]; 1 order: u32 [n]; 2 state: f32 damping, then u32, 1 if an input's moment is not a positive number
// grid       x: ceil(n / 64)
// scalars    sorted: 1, or 0 for inputs in their own order

struct Params {
    n: u32,
    sorted: u32,
    fraction: f32,
}

@group(0) @binding(0) var<storage, read> hessian: array<f32>;
@group(0) @binding(1) var<storage, read_write> order: array<u32>;
@group(0) @binding(2) var<storage, read_write> state: array<u32>;
var<immediate> p: Params;

const LARGEST = 3.4028234e38;

var<workgroup> diagonal: array<f32, 64>;

// What orders inputs: nothing for a moment that is no number, so that every place has its input whatever comes of it.
fn moment(input: u32) -> f32 {
    let value = hessian[input * (p.n + 1u)];
    return select(0.0, value, value > 0.0 && value <= LARGEST);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let input = 64u * group.x + lane;
    var own = 0.0;
    if input < p.n {
        own = moment(input);
    }
    var rank = 0u;
    var sum = 0.0;
    for (var first = 0u; first < p.n; first += 64u) {
        let count = min(64u, p.n - first);
        workgroupBarrier();
        if lane < count {
            diagonal[lane] = moment(first + lane);
        }
        workgroupBarrier();
        var part = 0.0;
        for (var i = 0u; i < count; i += 1u) {
            let other = diagonal[i];
            part += other;
            if other > own || (other == own && first + i < input) {
                rank += 1u;
            }
        }
        sum += part;
    }
    if input >= p.n {
        return;
    }
    if own == 0.0 {
        state[1] = 1u;
    }
    order[select(input, rank, p.sorted == 1u)] = input;
    if input == 0u {
        state[0] = bitcast<u32>(p.fraction * (sum / f32(p.n)));
    }
}
