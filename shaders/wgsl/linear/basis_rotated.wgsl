// What trellis matrices are multiplied with: `x · diag(suh) · H`.

//!use linear/halves
//!use linear/team

// What values `channel`, `channel + 1`, `channel + 8` and `channel + 9` are multiplied with.
fn input_scale(place: Place, channel: u32) -> vec4<f32> {
    let suh = weights[place.header + 2u] + channel / 2u;
    return halves(suh, suh + 4u);
}

// A lane's four of a block of 128. All lanes of the workgroup must call.
fn turned(v: vec4<f32>, at: u32) -> vec4<f32> {
    return rotate(v, at);
}
