// out = x Wᵀ (+ bias, + residual) for W stored row by row and many rows of x, in f32: 64 rows by 128 outputs a workgroup. Each sum is
// taken in the order of inputs, whatever rows there are besides.
//
// bindings   as linear/rows_gemv
// grid       x: groups of 128 outputs, of all linears; z: groups of 64 rows
// constants  WEIGHTS, with its constants; ROUTE; ROWS: 64; the rest is text from `rows.rs`

//!use linear/params
//!use linear/stored
//!use linear/product

{{BINDINGS}}

//!use linear/inputs
//!use linear/finish_plain

// Rows of x, from the first to the last.
struct Rows {
    first: u32,
    last: u32,
}

struct Columns {
    store: Store,
    // Outputs, from the first to the last of the matrix.
    first: u32,
    last: u32,
}

// Rows and columns that are not there are computed as the last, and not stored.
fn row_eight(rows: Rows, step: u32, at: u32) -> Eight {
    return activations(min(rows.first + (at >> 1u), rows.last), 2u * step + (at & 1u));
}

fn column_eight(columns: Columns, step: u32, at: u32) -> Eight {
    // Beyond the last group of eight the input is zero.
    let chunk = min(2u * step + (at & 1u), p.blocks - 1u);
    return eight(columns.store, min(columns.first + (at >> 1u), columns.last), chunk);
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    var place: Place;
    if !locate(group, groups, &place) {
        return;
    }
    let rows = Rows(place.x_row, place.x_row + place.end - place.row - 1u);
    let ends = ends_of(place, at & 31u);
    let columns = Columns(stored_unscaled(place.header), 128u * place.block, ends.width - 1u);
    let row = 8u * (at >> 5u);
    let sums = product(rows, columns, (p.blocks + 1u) / 2u, place.row + row < place.end, at);
    {{FINISH}}
}
