// The first step of sampling: of each chunk of 4096 logits the largest and its id, the lowest of equals.
//
// bindings   0 logits: f32 [rows, stride]; 1 maxima: u32 [rows, chunks, 2], key (common/order) and id; the highest key, which
//            no number has, stands for a chunk with NaN or +∞
// grid       x: chunks = ceil(vocabulary / 4096); y: rows
// constants  WG: workgroup size, a power of two, at most 4096

//!use common/first
//!use common/order
//!use common/softmax

struct Params {
    vocabulary: u32,
    stride: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> maxima: array<vec2<u32>>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let end = min((group.x + 1u) * CHUNK, p.vocabulary);
    var best = vec2(0u, 0xffffffffu);
    for (var id = group.x * CHUNK + lane; id < end; id += {{WG}}u) {
        let logit = logits[group.y * p.stride + id];
        let token = vec2(select(order_key(logit), 0xffffffffu, is_bad_logit(logit)), id);
        if is_ahead(token, best) {
            best = token;
        }
    }
    let first = workgroup_first(best, lane);
    if lane == 0u {
        maxima[group.y * groups.x + group.x] = first;
    }
}
