// From sums in the rotated basis of a trellis-coded matrix to outputs.

//!use linear/halves
//!use linear/put
//!use linear/team

// What outputs `4 lane…` of a block are multiplied with, and what is added to them.
struct Ends {
    scale: vec4<f32>,
    bias: vec4<f32>,
    width: u32,
}

fn ends_of(place: Place, lane: u32) -> Ends {
    var ends: Ends;
    let columns = 64u * place.block + 2u * lane;
    let svh = weights[place.header + 3u] + columns;
    ends.scale = halves(svh, svh + 1u);
    let bias = weights[place.header + 4u];
    if bias != NONE {
        ends.bias = halves(bias + columns, bias + columns + 1u);
    }
    ends.width = weights[place.header + 5u];
    return ends;
}

// The outputs of row `row` and columns `4 lane…` of the block. All lanes must call.
fn finish(place: Place, ends: Ends, row: u32, rotated: vec4<f32>, at: u32) {
    finish_some(place, ends, row, rotate(rotated, at), vec4<bool>(true), at);
}

// Those that are `there`, from sums `y` that are rotated back.
fn finish_some(place: Place, ends: Ends, row: u32, y: vec4<f32>, there: vec4<bool>, at: u32) {
    put(place, ends.width, row, fma(y, ends.scale, ends.bias), there, at);
}
