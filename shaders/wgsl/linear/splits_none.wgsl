// Ends a row whose inputs one workgroup has seen.

//!use linear/finish_rotated

// Row `row` of those of the workgroup, or ROWS for none; `rotated` are its sums. All lanes must call.
fn conclude(place: Place, ends: Ends, row: u32, rotated: vec4<f32>, at: u32) {
    finish(place, ends, row, rotated, at);
}

// Rows that are concluded are done.
fn settle(place: Place, ends: Ends, at: u32) {
}
