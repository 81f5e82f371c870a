// 64 rows by 128 columns by cooperative matrices of 16 × 16 × 16: each of four subgroups makes 64 rows of 32 columns.
//
// Matrices are read from and written to buffers, which is as fast as through workgroup memory where tiles are contiguous.

fn multiply(rows: u32, columns: u32, steps: u32, out_start: u32, width: u32, at: u32) {
    let column = 32u * (at >> 5u);
    var a = rows;
    var b = columns + 16u * column;
    let to = out_start + column;
    // 16, computed: naga wants arguments that were.
    let across = min(width, 16u);
    {{ACCUMULATORS}}
    // Steps are a multiple of eight.
    for (var step = 0u; step < steps; step += 2u) {
        {{MULTIPLY}}
        a += 2048u;
        b += 4096u;
    }
    {{STORE_SUMS}}
}
