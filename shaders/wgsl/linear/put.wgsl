// Where a product with blocks of 128 columns leaves its outputs.

{{STORE}}

// Columns `4 lane…` of the block, of row `row` of those of the workgroup: those that are `there`, and among the linear's `width`.
fn put(place: Place, width: u32, row: u32, y: vec4<f32>, there: vec4<bool>, at: u32) {
    let to = place.row + row;
    if row < ROWS && to < place.end {
        let column = 128u * place.block + 4u * (at & 31u);
        let index = to * width + column;
        for (var c = 0u; c < 4u; c += 1u) {
            if there[c] && column + c < width {
                store(place.linear, index + c, y[c]);
            }
        }
    }
}
