// The norm in front of a routed block and the router's logits, in one dispatch: n = rms_norm(x), logits = n · Wᵀ.
// Every workgroup norms its row for itself, which costs less than a dispatch; the first of a row writes n.
//
// bindings   0 x: f32 [rows, width]; 1 norm: f32 [width]; 2 router: [experts, width] in FORMAT, packed in words, width even;
//            3 normed: f32 [rows, width]; 4 logits: f32 [rows, experts]
// grid       x: ceil(experts / PER_GROUP); y: rows
// constants  WG: workgroup size, a power of two; PER_GROUP: experts of a workgroup; FORMAT: f32 | f16 | bf16;
//            REDUCE: subgroup | workgroup

//!use common/rms
//!use common/dense_{{FORMAT}}

struct Params {
    width: u32,
    experts: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> norm: array<f32>;
@group(0) @binding(2) var<storage, read> router: array<u32>;
@group(0) @binding(3) var<storage, read_write> normed: array<f32>;
@group(0) @binding(4) var<storage, read_write> logits: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    let start = group.y * p.width;
    let words = p.width / PER_WORD;
    var squares = 0.0;
    for (var i = l.lane; i < p.width; i += {{WG}}u) {
        let value = x[start + i];
        squares += value * value;
    }
    let factor = inverse_rms(squares, p.width, p.epsilon, l);
    if group.x == 0u {
        for (var i = l.lane; i < p.width; i += {{WG}}u) {
            normed[start + i] = x[start + i] * factor * norm[i];
        }
    }
    for (var i = 0u; i < {{PER_GROUP}}u; i += 1u) {
        let expert = group.x * {{PER_GROUP}}u + i;
        var product = 0.0;
        if expert < p.experts {
            for (var word = l.lane; word < words; word += {{WG}}u) {
                let w = widen(router[expert * words + word]);
                let column = word * PER_WORD;
                product += x[start + column] * factor * norm[column] * w.x;
                if PER_WORD == 2u {
                    product += x[start + column + 1u] * factor * norm[column + 1u] * w.y;
                }
            }
        }
        let logit = workgroup_sum(product, l);
        if l.lane == 0u && expert < p.experts {
            logits[group.y * p.experts + expert] = logit;
        }
    }
}
