// What 32 columns of a Cholesky factor leave of the matrix to the right of them: matrix -= lower · lowerᵀ, in the lower triangle.
//
// bindings   0 lower: f32 [n, n]; 1 matrix: f32 [n, n]
// grid       x, y: ceil((n - first - 32) / 64)
// scalars    first: of the 32 columns

struct Params {
    n: u32,
    first: u32,
}

@group(0) @binding(0) var<storage, read> lower: array<f32>;
@group(0) @binding(1) var<storage, read_write> matrix: array<f32>;
var<immediate> p: Params;

const BY_DEPTH = true;

//!use quantize/product

fn left(row: u32, k: u32) -> f32 {
    if row < p.n {
        return lower[row * p.n + p.first + k];
    }
    return 0.0;
}

fn right(k: u32, column: u32) -> f32 {
    return left(column, k);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if group.x > group.y {
        return;
    }
    let start = p.first + 32u;
    let top = start + 64u * group.y;
    let side = start + 64u * group.x;
    let tile = product(top, side, 32u, lane);
    for (var i = 0u; i < 4u; i += 1u) {
        let row = top + lane / 16u * 4u + i;
        let values = row_of(tile, i);
        for (var j = 0u; j < 4u; j += 1u) {
            let column = side + lane % 16u * 4u + j;
            if row < p.n && column <= row {
                matrix[row * p.n + column] -= values[j];
            }
        }
    }
}
