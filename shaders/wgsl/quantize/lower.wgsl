// A symmetric product, of which the tiles on the diagonal and below it are computed: one tile of 64 × 64 a workgroup of 256 lanes.
//
// Whoever imports it defines what quantize/product asks for, where left(i, k) = right(k, i), and fn put(row: u32, column: u32,
// value: f32), which is called for each place on the diagonal and below, and may be called for places beyond what there is.

//!use quantize/product

fn lower(group: vec3<u32>, depth: u32, lane: u32) {
    if group.x > group.y {
        return;
    }
    let tile = product(64u * group.y, 64u * group.x, depth, lane);
    for (var i = 0u; i < 4u; i += 1u) {
        let row = 64u * group.y + lane / 16u * 4u + i;
        let values = row_of(tile, i);
        for (var j = 0u; j < 4u; j += 1u) {
            let column = 64u * group.x + lane % 16u * 4u + j;
            // In tiles on the diagonal each place above it has been computed too, and may differ in the last bit.
            if column <= row {
                put(row, column, values[j]);
            }
        }
    }
}
