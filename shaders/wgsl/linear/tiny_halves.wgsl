// Whether a device keeps halves below the normal ones: asked with whole numbers up to 1020, as their bits, of which it makes 2^-9 each.
//
// bindings   x: u32, two halves each; out: f32, twice as many
// grid       1
// needs      f16

enable f16;

//!use linear/two_halves

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) at: u32) {
    let halves = fma(two_halves(x[at]), vec2<f16>(32768.0h), vec2<f16>(0.0h));
    out[2u * at] = f32(halves.x);
    out[2u * at + 1u] = f32(halves.y);
}
