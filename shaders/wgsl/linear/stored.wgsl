// Matrices that are stored row by row, eight inputs at a time.
//
// constants  WEIGHTS, with its constants

//!use linear/eight

struct Store {
    codes: u32,
    scales: u32,
    zeros: u32,
    // What all scales are multiplied with.
    factor: f32,
}

//!use linear/weights_{{WEIGHTS}}

// The matrix of a header.
fn stored(header: u32) -> Store {
    return Store(
        weights[header + 1u],
        weights[header + 3u],
        weights[header + 6u],
        bitcast<f32>(weights[header + 7u]),
    );
}

// The same but for the factor, which whoever multiplies with it applies to sums.
fn stored_unscaled(header: u32) -> Store {
    var store = stored(header);
    store.factor = 1.0;
    return store;
}
