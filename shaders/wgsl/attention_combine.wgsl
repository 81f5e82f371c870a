// What the parts of the context gave, as one result: each part weighted by its share of the softmax.
//
// bindings   0 parts: f32 [rows, heads, splits, HEAD_DIM]; 1 stats: f32 [rows, heads, splits, 2]: as attention_decode writes
//            them; 2 q: f32 [rows, heads, 2, HEAD_DIM], of gate_heads (anything if GATED is false); 3 out: f32 [rows, heads, HEAD_DIM]
// grid       x: heads; y: rows; workgroups of HEAD_DIM lanes
// constants  HEAD_DIM; GATED: true | false

const HEAD_DIM = {{HEAD_DIM}}u;

struct Params {
    heads: u32,
    splits: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{HEAD_DIM}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.y * p.heads + group.x;
    let first = head * p.splits;
    var largest = stats[first].x;
    for (var s = 1u; s < p.splits; s += 1u) {
        largest = max(largest, stats[first + s].x);
    }
    var total = 0.0;
    var sum = 0.0;
    for (var s = 0u; s < p.splits; s += 1u) {
        let part = stats[first + s];
        let share = exp2(part.x - largest);
        sum += share * part.y;
        total += share * parts[(first + s) * HEAD_DIM + lane];
    }
    if {{GATED}} {
        sum *= 1.0 + exp(-q[(2u * head + 1u) * HEAD_DIM + lane]);
    }
    out[head * HEAD_DIM + lane] = total / sum;
}
