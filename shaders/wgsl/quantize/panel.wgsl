// Columns first..first + 32 of a Cholesky factor: of the block on the diagonal, and of the rows below it.
//
// bindings   0 matrix: f32 [n, n], what is left of it after the columns before; 1 lower: f32 [n, n]; 2 importance: f32 [n], the squares
//            of the factor's diagonal, by input; 3 order: u32 [n] of the sweep, which is the matrix's turned round; 4 state: u32, of
//            which the second becomes 1 if a pivot is not positive
// grid       x: at least one, ceil(rows below / 64)
//
// Every workgroup factorizes the block for itself rather than wait for another's.

struct Params {
    n: u32,
    first: u32,
}

@group(0) @binding(0) var<storage, read> matrix: array<f32>;
@group(0) @binding(1) var<storage, read_write> lower: array<f32>;
@group(0) @binding(2) var<storage, read_write> importance: array<f32>;
@group(0) @binding(3) var<storage, read> order: array<u32>;
@group(0) @binding(4) var<storage, read_write> state: array<u32>;
var<immediate> p: Params;

const SIZE = 32u;
const PITCH = 33u;

var<workgroup> block: array<f32, SIZE * PITCH>;
var<workgroup> rows: array<f32, 64u * PITCH>;
var<workgroup> inverses: array<f32, SIZE>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let width = min(SIZE, p.n - p.first);
    let own = lane % SIZE;
    for (var row = lane / SIZE; row < SIZE; row += 2u) {
        // Beyond the matrix, one that factorizes into itself.
        var value = select(0.0, 1.0, row == own);
        if row < width && own <= row {
            value = matrix[(p.first + row) * p.n + p.first + own];
        }
        block[row * PITCH + own] = value;
    }
    let below = p.first + SIZE + 64u * group.x;
    for (var row = lane / SIZE; row < 64u; row += 2u) {
        var value = 0.0;
        if below + row < p.n {
            value = matrix[(below + row) * p.n + p.first + own];
        }
        rows[row * PITCH + own] = value;
    }
    for (var j = 0u; j < SIZE; j += 1u) {
        workgroupBarrier();
        // Columns wait for the roots of their pivots, so that a step is one barrier.
        let pivot = block[j * PITCH + j];
        let factor = block[own * PITCH + j] / pivot;
        for (var k = j + 1u + lane / SIZE; k <= own; k += 2u) {
            block[own * PITCH + k] -= factor * block[k * PITCH + j];
        }
    }
    workgroupBarrier();
    if lane < SIZE {
        let pivot = block[lane * PITCH + lane];
        if !(pivot > 0.0) {
            state[1] = 1u;
        }
        inverses[lane] = 1.0 / sqrt(pivot);
    }
    workgroupBarrier();
    let inverse = inverses[own];
    for (var row = lane / SIZE; row < SIZE; row += 2u) {
        let value = select(0.0, block[row * PITCH + own] * inverse, own <= row);
        block[row * PITCH + own] = value;
        if group.x == 0u && row < width && own < width {
            lower[(p.first + row) * p.n + p.first + own] = value;
            if row == own {
                importance[order[p.n - 1u - p.first - own]] = value * value;
            }
        }
    }
    workgroupBarrier();
    for (var c = 0u; c < SIZE; c += 1u) {
        var value = rows[lane * PITCH + c];
        for (var k = 0u; k < c; k += 1u) {
            value -= rows[lane * PITCH + k] * block[c * PITCH + k];
        }
        rows[lane * PITCH + c] = value * inverses[c];
    }
    workgroupBarrier();
    for (var row = lane / SIZE; row < 64u; row += 2u) {
        if below + row < p.n {
            lower[(below + row) * p.n + p.first + own] = rows[row * PITCH + own];
        }
    }
}
