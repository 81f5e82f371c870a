// Four halves of the weights' buffer, from two words.

fn halves(first: u32, second: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(weights[first]), unpack2x16float(weights[second]));
}
