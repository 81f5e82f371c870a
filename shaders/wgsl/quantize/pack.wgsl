// Codes next to each other in words, the first in the lowest bits.
//
// bindings   0 codes: u32 [count]; 1 words: u32 [ceil(count / a word's)]
// grid       x · y: ceil(words / 256)
// scalars    bits: 4 or 8

struct Params {
    count: u32,
    bits: u32,
}

@group(0) @binding(0) var<storage, read> codes: array<u32>;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;
var<immediate> p: Params;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let each = 32u / p.bits;
    let at = 256u * (group.y * groups.x + group.x) + lane;
    if at >= (p.count + each - 1u) / each {
        return;
    }
    var word = 0u;
    for (var i = 0u; i < min(each, p.count - at * each); i += 1u) {
        word |= codes[at * each + i] << (p.bits * i);
    }
    words[at] = word;
}
