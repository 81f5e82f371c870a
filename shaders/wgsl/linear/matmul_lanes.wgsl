// 64 rows by 128 columns without matrix units: 256 lanes make 8 rows of 4 columns each, from tiles that all of them bring to workgroup
// memory in f32.

// By input; a row more than there are, four times, keeps inputs in different banks.
var<workgroup> rows: array<f32, 16 * 68>;
var<workgroup> columns: array<f32, 16 * 132>;

fn multiply(rows_start: u32, columns_start: u32, steps: u32, out_start: u32, width: u32, at: u32) {
    // In eights of halves.
    var a = rows_start / 8u + at;
    var b = columns_start / 8u + at;
    let row = 8u * (at >> 5u);
    let column = 4u * (at & 31u);
    let to = out_start + row * width + column;
    // Half a row or column of a tile each.
    let stored = at >> 1u;
    let input = 8u * (at & 1u);
    {{ACCUMULATORS}}
    for (var step = 0u; step < steps; step += 1u) {
        workgroupBarrier();
        if at < 128u {
            let eight = x[a];
            for (var i = 0u; i < 4u; i += 1u) {
                let two = unpack2x16float(eight[i]);
                rows[68u * (input + 2u * i) + stored] = two.x;
                rows[68u * (input + 2u * i + 1u) + stored] = two.y;
            }
        }
        let eight = decoded[b];
        for (var i = 0u; i < 4u; i += 1u) {
            let two = unpack2x16float(eight[i]);
            columns[132u * (input + 2u * i) + stored] = two.x;
            columns[132u * (input + 2u * i + 1u) + stored] = two.y;
        }
        workgroupBarrier();
        for (var k = 0u; k < 16u; k += 1u) {
            let across = 132u * k + column;
            let w = vec4<f32>(columns[across], columns[across + 1u], columns[across + 2u], columns[across + 3u]);
            let near = 68u * k + row;
            {{MULTIPLY}}
        }
        a += 128u;
        b += 256u;
    }
    {{STORE_SUMS}}
}
