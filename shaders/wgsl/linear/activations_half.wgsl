// Activations and sums in half precision, two inputs to an operation, for any codebook: a block's activations are divided by its
// largest, and sums of at most 128 products are then taken to f32.
//
// constants  SLOTS, SCALE, OFFSET: as in linear/trellis_gemv
// needs      f16

enable f16;

//!use linear/team
//!use linear/two_halves

var<workgroup> activations: array<vec4<f16>, 32 * {{SLOTS}}>;

alias Sums = vec4<f32>;

struct Scales {
    step: f32,
    // What the codebook's offset adds to every output.
    offset: f32,
}

// `sum`, of all of the block, is of the first lane, and so is what it gives.
fn prepare(slot: u32, v: vec4<f32>, sum: f32, at: u32) -> Scales {
    let lane = at & 31u;
    // Magnitudes order as their bits do; what is not a number comes last, and stays none.
    let bits = bitcast<vec4<u32>>(abs(v));
    let largest = bitcast<f32>(team_max(max(max(bits.x, bits.y), max(bits.z, bits.w)), at));
    if slot < {{SLOTS}}u {
        // Of nothing, nothing: below it the quotient would be infinite.
        activations[32u * slot + lane] = vec4<f16>(v * select(1.0 / largest, 0.0, largest < 1e-37));
    }
    return Scales(largest, {{OFFSET}} * sum);
}

// What sums of a block's products are worth; its constants go to one of those who share it.
fn scaled(sums: Sums, scales: Scales, first: bool) -> vec4<f32> {
    return fma(sums, vec4<f32>({{SCALE}} * scales.step), vec4<f32>(select(0.0, scales.offset, first)));
}
