// Each run of BLOCK values of a row times the Hadamard matrix H[i][j] = (-1)^popcount(i & j) / sqrt(BLOCK), with a scale
// per channel before it (the input side of a linear: H·(scale ∘ x)) or after it (the output side: scale ∘ H·x).
//
// bindings   0 x: f32 [rows, width]; 1 scales: f16 [padded], two a word; 2 out: f32 [rows, out_width]
// grid       x: ceil(padded / (WG·B)); y: rows; padded = width rounded up to BLOCK; B, values a lane holds, is that below
// scalars    what x lacks of the last block is zero; of the last block of out, what is beyond out_width is not written
// constants  WG: workgroup size, a multiple of 16; BLOCK: 16 | 32 | 64 | 128 | 256; SIDE: input | output | none
//
// A block is a matrix of A × B values. A lane transforms a column of B values with stride A in registers, then B / A rows
// of A adjacent ones: one exchange through workgroup memory instead of log2(BLOCK).

//!use common/scale_{{SIDE}}

const BLOCK = {{BLOCK}}u;
// 16 × 16, 8 × 16, 8 × 8, 4 × 8, 4 × 4.
const A = select(select(4u, 8u, BLOCK >= 64u), 16u, BLOCK == 256u);
const B = BLOCK / A;
const VALUES = {{WG}}u * B;

struct Params {
    width: u32,
    out_width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> scales: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

var<workgroup> exchange: array<f32, VALUES>;

fn scale(channel: u32) -> f32 {
    let pair = unpack2x16float(scales[channel / 2u]);
    return select(pair.x, pair.y, channel % 2u == 1u);
}

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = group.x * VALUES;
    let in_row = group.y * p.width;
    let out_row = group.y * p.out_width;
    let block = lane / A * BLOCK;
    var v: array<f32, B>;
    for (var i = 0u; i < B; i += 1u) {
        let channel = first + block + i * A + lane % A;
        v[i] = 0.0;
        if channel < p.width {
            v[i] = before(x[in_row + channel], channel);
        }
    }
    for (var step = 1u; step < B; step *= 2u) {
        for (var i = 0u; i < B / 2u; i += 1u) {
            let low = i % step + i / step * step * 2u;
            let sum = v[low] + v[low + step];
            v[low + step] = v[low] - v[low + step];
            v[low] = sum;
        }
    }
    for (var i = 0u; i < B; i += 1u) {
        exchange[block + i * A + lane % A] = v[i];
    }
    workgroupBarrier();
    let own = lane * B;
    for (var i = 0u; i < B; i += 1u) {
        v[i] = exchange[own + i];
    }
    for (var step = 1u; step < A; step *= 2u) {
        for (var i = 0u; i < B / 2u; i += 1u) {
            let low = i % step + i / step * step * 2u;
            let sum = v[low] + v[low + step];
            v[low + step] = v[low] - v[low + step];
            v[low] = sum;
        }
    }
    for (var i = 0u; i < B; i += 1u) {
        let channel = first + own + i;
        if channel < p.out_width {
            out[out_row + channel] = after(v[i] * inverseSqrt(f32(BLOCK)), channel);
        }
    }
}
