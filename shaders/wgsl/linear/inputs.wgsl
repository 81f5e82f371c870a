// The input of matrices that are stored row by row.

//!use linear/eight

// Eight values of x, zero beyond its width.
fn activations(row: u32, chunk: u32) -> Eight {
    let start = row * p.width + 8u * chunk;
    if 8u * chunk + 7u < p.width {
        return Eight(
            vec4<f32>(x[start], x[start + 1u], x[start + 2u], x[start + 3u]),
            vec4<f32>(x[start + 4u], x[start + 5u], x[start + 6u], x[start + 7u]),
        );
    }
    var values = Eight();
    for (var i = 0u; i < 4u; i += 1u) {
        if 8u * chunk + i < p.width {
            values.low[i] = x[start + i];
        }
        if 8u * chunk + 4u + i < p.width {
            values.high[i] = x[start + 4u + i];
        }
    }
    return values;
}
