// Costs in f32.

alias Number = f32;

fn two_weights(bits: u32) -> vec2<f32> {
    return unpack2x16float(bits);
}
