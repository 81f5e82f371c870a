// Halves of a word.
//
// needs      f16

enable f16;

// The two halves whose bits these are: nothing to do, which compilers see and naga has no other word for.
fn two_halves(bits: u32) -> vec2<f16> {
    return vec2<f16>(unpack2x16float(bits));
}
