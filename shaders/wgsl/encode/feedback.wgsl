// What is to be encoded of 16 rows of linears: their weights, and what makes up for the errors of the rows behind them (block LDLQ):
// targets = weights[start..start + 16] + Lᵀ[start..start + 16, start + 16..last] · errors[start + 16..last].
//
// Bindings: factors f32 [linears, rows, rows], L of each, a column of it a row here; weights f32 [linears, rows, columns], of which rows
//     behind these are errors already; targets f32 [linears · columns / 16, 256], tiles in the order of a walk.
// Grid: columns / 128, linears. A lane makes 8 rows of a column. Sums are in the order of rows.

struct Params {
    rows: u32,
    columns: u32,
    start: u32,
    last: u32,
}
var<immediate> p: Params;

//!use encode/place

@group(0) @binding(0) var<storage, read> factors: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> targets: array<f32>;

const DEPTH = 32u;
// Of some rows, those of the 16 columns of L.
var<workgroup> shared_factors: array<vec4<f32>, 4u * DEPTH>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let linear = group.y * p.rows;
    let column = group.x * 128u + lane % 128u;
    let half = lane / 128u;
    var low = vec4<f32>();
    var high = vec4<f32>();
    for (var first = p.start + 16u; first < p.last; first += DEPTH) {
        workgroupBarrier();
        for (var i = lane; i < 16u * DEPTH; i += 256u) {
            let row = first + i % DEPTH;
            let own = i / DEPTH;
            var factor = 0.0;
            if row < p.last {
                factor = factors[(linear + p.start + own) * p.rows + row];
            }
            shared_factors[i % DEPTH * 4u + own / 4u][own % 4u] = factor;
        }
        workgroupBarrier();
        for (var k = 0u; k < min(DEPTH, p.last - first); k += 1u) {
            let error = weights[(linear + first + k) * p.columns + column];
            low = fma(vec4(error), shared_factors[4u * k + 2u * half], low);
            high = fma(vec4(error), shared_factors[4u * k + 2u * half + 1u], high);
        }
    }
    let tile = group.y * (p.columns / 16u) + column / 16u;
    for (var i = 0u; i < 8u; i += 1u) {
        let row = 8u * half + i;
        var sum = low[i % 4u];
        if i >= 4u {
            sum = high[i % 4u];
        }
        let weight = weights[(linear + p.start + row) * p.columns + column];
        targets[tile * 256u + step_of(row, column % 16u)] = weight + sum;
    }
}
