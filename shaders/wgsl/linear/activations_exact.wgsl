// Activations in f32, for any codebook: a weight is `SCALE · decoded + OFFSET`.
//
// constants  SLOTS, SCALE, OFFSET: as in linear/trellis_gemv

//!use linear/team

var<workgroup> activations: array<vec4<f32>, 32 * {{SLOTS}}>;

alias Sums = vec4<f32>;
// What the codebook's offset adds to every output.
alias Scales = f32;

fn prepare(slot: u32, v: vec4<f32>, at: u32) -> Scales {
    let lane = at & 31u;
    if slot < {{SLOTS}}u {
        activations[32u * slot + lane] = v;
    }
    if {{OFFSET}} == 0.0 {
        return 0.0;
    }
    var sum = v;
    for (var mask = 1u; mask < 32u; mask = mask << 1u) {
        sum += exchange(sum, at, mask);
    }
    return {{OFFSET}} * (sum.x + sum.y + sum.z + sum.w);
}

// What sums of a block's products are worth; its constants go to one of those who share it.
fn scaled(sums: Sums, scales: Scales, first: bool) -> vec4<f32> {
    return fma(sums, vec4<f32>({{SCALE}}), vec4<f32>(select(0.0, scales, first)));
}
