// 64 rows by 128 columns without matrix units.

//!use linear/product

// Where tiles begin, in eights of halves.
struct Rows {
    start: u32,
}

struct Columns {
    start: u32,
}

fn unpacked(eight: vec4<u32>) -> Eight {
    return Eight(
        vec4<f32>(unpack2x16float(eight.x), unpack2x16float(eight.y)),
        vec4<f32>(unpack2x16float(eight.z), unpack2x16float(eight.w)),
    );
}

fn row_eight(rows: Rows, step: u32, at: u32) -> Eight {
    return unpacked(x[rows.start + 128u * step + at]);
}

fn column_eight(columns: Columns, step: u32, at: u32) -> Eight {
    return unpacked(decoded[columns.start + 256u * step + at]);
}

fn multiply(rows: u32, columns: u32, steps: u32, out_start: u32, width: u32, at: u32) {
    // Rows that are not there are zeros, whose sums are stored like any.
    let sums = product(Rows(rows / 8u), Columns(columns / 8u), steps, true, at);
    let to = out_start + 8u * (at >> 5u) * width + 4u * (at & 31u);
    {{STORE_SUMS}}
}
