// tr(A H Aᵀ), a tile of 64 × 64 of A H at a time: what a linear's weights, or errors, make of its inputs.
//
// bindings   0 values: f32 [outputs, n], A; 1 hessian: f32 [n, n]; 2 order: u32 [n]; 3 sums: f32 [y, x], of tiles, to be added up
// grid       x: ceil(n / 64); y: ceil(outputs / 64)
// scalars    ordered: 1 where column i of A is input order[i], 0 where it is input i

struct Params {
    outputs: u32,
    n: u32,
    ordered: u32,
}

@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> hessian: array<f32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read_write> sums: array<f32>;
var<immediate> p: Params;

const BY_DEPTH = true;

//!use quantize/product
//!use common/reduce_workgroup

fn input_of(column: u32) -> u32 {
    if p.ordered == 1u {
        return order[column];
    }
    return column;
}

fn left(row: u32, k: u32) -> f32 {
    if row < p.outputs && k < p.n {
        return values[row * p.n + k];
    }
    return 0.0;
}

fn right(k: u32, column: u32) -> f32 {
    if k < p.n && column < p.n {
        return hessian[input_of(k) * p.n + input_of(column)];
    }
    return 0.0;
}

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    l: Lanes,
) {
    let tile = product(64u * group.y, 64u * group.x, p.n, l.lane);
    let row = 64u * group.y + l.lane / 16u * 4u;
    let column = 64u * group.x + l.lane % 16u * 4u;
    var sum = 0.0;
    for (var i = 0u; i < 4u; i += 1u) {
        let values = row_of(tile, i);
        for (var j = 0u; j < 4u; j += 1u) {
            sum += values[j] * left(row + i, column + j);
        }
    }
    let total = workgroup_sum(sum, l);
    if l.lane == 0u {
        sums[group.y * groups.x + group.x] = total;
    }
}
