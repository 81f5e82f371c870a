// Hands the errors of a block of 128 inputs on to all after it: sums += errors · V, with V_ji = lower[n - 1 - j][n - 1 - i].
//
// bindings   0 errors: f32 [outputs, n] by step; 1 lower: f32 [n, n]; 2 sums: f32 [outputs, n] by step, made by the first block
// grid       x: ceil((n - first - 128) / 64); y: ceil(outputs / 64)
// scalars    first: of the block

struct Params {
    outputs: u32,
    n: u32,
    first: u32,
}

@group(0) @binding(0) var<storage, read> errors: array<f32>;
@group(0) @binding(1) var<storage, read> lower: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;
var<immediate> p: Params;

const BY_DEPTH = true;

//!use quantize/product

fn left(row: u32, k: u32) -> f32 {
    if row < p.outputs {
        return errors[row * p.n + p.first + k];
    }
    return 0.0;
}

fn right(k: u32, column: u32) -> f32 {
    if column < p.n {
        return lower[(p.n - 1u - p.first - k) * p.n + p.n - 1u - column];
    }
    return 0.0;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let side = p.first + 128u + 64u * group.x;
    let tile = product(64u * group.y, side, 128u, lane);
    for (var i = 0u; i < 4u; i += 1u) {
        let row = 64u * group.y + lane / 16u * 4u + i;
        let values = row_of(tile, i);
        for (var j = 0u; j < 4u; j += 1u) {
            let column = side + lane % 16u * 4u + j;
            if row < p.outputs && column < p.n {
                let at = row * p.n + column;
                var sum = values[j];
                if p.first > 0u {
                    sum += sums[at];
                }
                sums[at] = sum;
            }
        }
    }
}
