// Activations in f32, for any codebook: a weight is `SCALE · decoded + OFFSET`.
//
// constants  SLOTS, SCALE, OFFSET: as in linear/trellis_gemv

//!use linear/team

var<workgroup> activations: array<vec4<f32>, 32 * {{SLOTS}}>;

alias Sums = vec4<f32>;
// What the codebook's offset adds to every output.
alias Scales = f32;

// `sum`, of all of the block, is of the first lane, and so is what it gives.
fn prepare(slot: u32, v: vec4<f32>, sum: f32, at: u32) -> Scales {
    if slot < {{SLOTS}}u {
        activations[32u * slot + (at & 31u)] = v;
    }
    return {{OFFSET}} * sum;
}

// What sums of a block's products are worth; its constants go to one of those who share it.
fn scaled(sums: Sums, scales: Scales, first: bool) -> vec4<f32> {
    return fma(sums, vec4<f32>({{SCALE}}), vec4<f32>(select(0.0, scales, first)));
}
