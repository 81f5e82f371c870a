// One row of a table of embeddings per token id. An id beyond the table gives a row of zeros: nothing is read outside it.
//
// bindings   0 table: [vocabulary, width] in FORMAT, packed in words, width even; 1 ids: u32 [rows];
//            2 out: f32 [rows, width]
// grid       x: ceil(width / PER_WORD / WG); y: rows
// constants  WG: workgroup size; FORMAT: f32 | f16 | bf16

//!use common/dense_{{FORMAT}}

struct Params {
    width: u32,
    vocabulary: u32,
}

@group(0) @binding(0) var<storage, read> table: array<u32>;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let words = p.width / PER_WORD;
    let word = group.x * {{WG}}u + lane;
    if word >= words {
        return;
    }
    let id = ids[group.y];
    var value = vec2(0.0);
    if id < p.vocabulary {
        value = widen(table[id * words + word]);
    }
    let start = group.y * p.width + word * PER_WORD;
    out[start] = value.x;
    if PER_WORD == 2u {
        out[start + 1u] = value.y;
    }
}
