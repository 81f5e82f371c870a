// The most probable token of each row, the lowest id of equals, after sample_scan. A row with NaN, +∞ or nothing finite raises
// the flag and gives 0.
//
// bindings   0 maxima: u32 [rows, chunks, 2]; 1 tokens: u32 [rows]; 2 flags: u32, of which number `flag` becomes 1
// grid       x: rows
// constants  WG: workgroup size, a power of two

//!use common/first
//!use common/order

struct Params {
    chunks: u32,
    flag: u32,
}

@group(0) @binding(0) var<storage, read> maxima: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(2) var<storage, read_write> flags: array<u32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    var best = vec2(0u, 0xffffffffu);
    for (var chunk = lane; chunk < p.chunks; chunk += {{WG}}u) {
        let token = maxima[group.x * p.chunks + chunk];
        if is_ahead(token, best) {
            best = token;
        }
    }
    let first = workgroup_first(best, lane);
    if lane == 0u {
        let bad = is_bad_largest(first.x);
        tokens[group.x] = select(first.y, 0u, bad);
        if bad {
            flags[p.flag] = 1u;
        }
    }
}
