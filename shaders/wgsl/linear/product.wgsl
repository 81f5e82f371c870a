// A tile of 64 rows by 128 columns of a product, in f32: 256 lanes make 8 rows of 4 columns each, 16 inputs at a time through workgroup
// memory. Sums are taken in the order of inputs.
//
// Whoever imports it says where the two sides come from: struct Rows and struct Columns, and for the eight inputs from `8 (at mod 2)` on
// of the 16 of a step, fn row_eight(rows: Rows, step: u32, at: u32) -> Eight of row `at / 2`, for 128 lanes, and fn column_eight(columns:
// Columns, step: u32, at: u32) -> Eight of column `at / 2`.

//!use linear/eight

// By input, in fours; one more than there are keeps inputs in different banks.
const ROW_FOURS = 17u;
const COLUMN_FOURS = 33u;

var<workgroup> row_tile: array<vec4<f32>, 16 * ROW_FOURS>;
var<workgroup> column_tile: array<vec4<f32>, 16 * COLUMN_FOURS>;

// Four inputs of a row, each to its place.
fn stage_row(input: u32, row: u32, v: vec4<f32>) {
    let to = ROW_FOURS * input + row / 4u;
    let place = row & 3u;
    row_tile[to][place] = v.x;
    row_tile[to + ROW_FOURS][place] = v.y;
    row_tile[to + 2u * ROW_FOURS][place] = v.z;
    row_tile[to + 3u * ROW_FOURS][place] = v.w;
}

fn stage_column(input: u32, column: u32, v: vec4<f32>) {
    let to = COLUMN_FOURS * input + column / 4u;
    let place = column & 3u;
    column_tile[to][place] = v.x;
    column_tile[to + COLUMN_FOURS][place] = v.y;
    column_tile[to + 2u * COLUMN_FOURS][place] = v.z;
    column_tile[to + 3u * COLUMN_FOURS][place] = v.w;
}

// Rows `8 (at / 32)…` of columns `4 (at mod 32)…`. All lanes must call; `live` says whether a lane's sums are of use.
fn product(rows: Rows, columns: Columns, steps: u32, live: bool, at: u32) -> array<vec4<f32>, 8> {
    let row = 2u * (at >> 5u);
    let column = at & 31u;
    let stored = at >> 1u;
    let input = 8u * (at & 1u);
    var sums = array<vec4<f32>, 8>();
    // A step is asked for before the one before it is multiplied.
    var near = Eight();
    if at < 128u {
        near = row_eight(rows, 0u, at);
    }
    var far = column_eight(columns, 0u, at);
    for (var step = 1u; step <= steps; step += 1u) {
        workgroupBarrier();
        if at < 128u {
            stage_row(input, stored, near.low);
            stage_row(input + 4u, stored, near.high);
        }
        stage_column(input, stored, far.low);
        stage_column(input + 4u, stored, far.high);
        workgroupBarrier();
        if step < steps {
            if at < 128u {
                near = row_eight(rows, step, at);
            }
            far = column_eight(columns, step, at);
        }
        if live {
            for (var k = 0u; k < 16u; k += 1u) {
                let w = column_tile[COLUMN_FOURS * k + column];
                let a = row_tile[ROW_FOURS * k + row];
                let b = row_tile[ROW_FOURS * k + row + 1u];
                sums[0] = fma(vec4<f32>(a.x), w, sums[0]);
                sums[1] = fma(vec4<f32>(a.y), w, sums[1]);
                sums[2] = fma(vec4<f32>(a.z), w, sums[2]);
                sums[3] = fma(vec4<f32>(a.w), w, sums[3]);
                sums[4] = fma(vec4<f32>(b.x), w, sums[4]);
                sums[5] = fma(vec4<f32>(b.y), w, sums[5]);
                sums[6] = fma(vec4<f32>(b.z), w, sums[6]);
                sums[7] = fma(vec4<f32>(b.w), w, sums[7]);
            }
        }
    }
    return sums;
}
