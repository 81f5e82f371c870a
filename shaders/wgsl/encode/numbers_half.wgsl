// Costs in half precision. What rounding does to sums of an interval is small beside what steps cost.
//
// needs      f16

enable f16;

//!use linear/two_halves

alias Number = f16;

fn two_weights(bits: u32) -> vec2<f16> {
    return two_halves(bits);
}
