// From sums with a matrix that is stored row by row, without the factor of its scales, to outputs.

//!use linear/put

// What outputs `4 lane…` of a block are multiplied with, and what is added to them.
struct Ends {
    factor: f32,
    bias: vec4<f32>,
    width: u32,
}

fn ends_of(place: Place, lane: u32) -> Ends {
    var ends: Ends;
    ends.factor = bitcast<f32>(weights[place.header + 7u]);
    ends.width = weights[place.header + 5u];
    let bias = weights[place.header + 4u];
    let column = 128u * place.block + 4u * lane;
    for (var c = 0u; c < 4u; c += 1u) {
        if bias != NONE && column + c < ends.width {
            ends.bias[c] = bitcast<f32>(weights[bias + column + c]);
        }
    }
    return ends;
}

// The outputs of row `row` and columns `4 lane…` of the block.
fn finish(place: Place, ends: Ends, row: u32, sums: vec4<f32>, at: u32) {
    put(place, ends.width, row, fma(sums, vec4<f32>(ends.factor), ends.bias), vec4<bool>(true), at);
}
