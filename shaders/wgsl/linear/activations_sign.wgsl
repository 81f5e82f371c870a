// Activations as sign and eight bits of magnitude with a step per Hadamard block, for MUL1 and a single row.
//
// The bytes of `state · −M − 1` are the complements of those of `state · M`, so that the byte sum becomes 1020 minus itself: for
// a negative activation the product is taken with the multiplier and the addend that do this, which costs nothing, and a
// constant of the block is taken off the sum.
//
// constants  SLOTS: as in linear/trellis_gemv; SCALE, OFFSET: a weight is `SCALE · (byte sum − 510) + OFFSET`

//!use linear/team

// Each magnitude in all four bytes; its multiplier; its addend.
var<workgroup> activations: array<vec4<u32>, 32 * {{SLOTS}}>;
var<workgroup> multipliers: array<vec4<u32>, 32 * {{SLOTS}}>;
var<workgroup> addends: array<vec4<u32>, 32 * {{SLOTS}}>;

alias Sums = vec4<u32>;

struct Scales {
    step: f32,
    // What is taken off the sums.
    excess: u32,
    // The sum of the activations in steps.
    sum: f32,
}

// What they add up to once they are rounded is counted, and not what it was.
fn prepare(slot: u32, v: vec4<f32>, unrounded: f32, at: u32) -> Scales {
    let lane = at & 31u;
    let magnitudes = abs(v);
    // Magnitudes order as their bits do; what is not a number comes last, and stays none.
    let bits = bitcast<vec4<u32>>(magnitudes);
    let largest = bitcast<f32>(team_max(max(max(bits.x, bits.y), max(bits.z, bits.w)), at));
    let values = vec4<u32>(round(magnitudes * select(255.0 / largest, 0.0, largest == 0.0)));
    let negative = v < vec4<f32>();
    if slot < {{SLOTS}}u {
        activations[32u * slot + lane] = values * 0x01010101u;
        multipliers[32u * slot + lane] =
            select(vec4<u32>(0x83DCD12Du), vec4<u32>(0x7C232ED3u), negative);
        addends[32u * slot + lane] = select(vec4<u32>(), vec4<u32>(0xFFFFFFFFu), negative);
    }
    // Both sums are below 2^16: of all, and of those below zero.
    let below = select(vec4<u32>(), values, negative);
    let mine = (values.x + values.y + values.z + values.w)
        | ((below.x + below.y + below.z + below.w) << 16u);
    let sums = team_sum(mine, at);
    let taken = i32(sums >> 16u);
    let sum = i32(sums & 0xFFFFu) - 2 * taken;
    return Scales(largest / 255.0, u32(1020 * taken + 510 * sum), f32(sum));
}

// What sums of a block's products are worth; its constants go to one of those who share it.
fn scaled(sums: Sums, scales: Scales, first: bool) -> vec4<f32> {
    // Right modulo 2³² whatever the signs.
    let centred = vec4<f32>(vec4<i32>(sums - vec4<u32>(select(0u, scales.excess, first))));
    let offset = select(0.0, {{OFFSET}} * scales.sum, first);
    return scales.step * fma(centred, vec4<f32>({{SCALE}}), vec4<f32>(offset));
}
