// What matrices that are stored row by row are multiplied with: x as it is.

fn input_scale(place: Place, channel: u32) -> vec4<f32> {
    return vec4<f32>(1.0);
}

fn turned(v: vec4<f32>, at: u32) -> vec4<f32> {
    return v;
}
