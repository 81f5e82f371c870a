// What a team of 32 lanes does with a Hadamard block of 128 values, four a lane. All lanes of the workgroup must call.
//
// constants  EXCHANGE: subgroup | shuffle | workgroup

//!use linear/exchange_{{EXCHANGE}}

const HADAMARD = 0.08838834764831845;
// What all of a rotated block add up to, for each unit of its first value.
const SUM = 11.313708498984761;

// The block times the Hadamard matrix, which is its own inverse. Which value of a lane, and which lane, are bits of a value's index,
// in any order: the transform does not mind.
fn rotate(v: vec4<f32>, at: u32) -> vec4<f32> {
    var a = vec4<f32>(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
    a = vec4<f32>(a.x + a.z, a.y + a.w, a.x - a.z, a.y - a.w);
    for (var mask = 1u; mask < 32u; mask = mask << 1u) {
        let other = exchange(a, at, mask);
        a = fma(a, vec4<f32>(select(1.0, -1.0, (at & mask) != 0u)), other);
    }
    return a * HADAMARD;
}
