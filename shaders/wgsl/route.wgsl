// The experts of each row of logits and their weights: see common/choose.
//
// bindings   0 logits: f32 [rows, experts]; 1 correction: f32 [experts] (anything if CORRECTED is false); 2 chosen: u32 [rows, top_k];
//            3 weights: f32 [rows, top_k]; 4 flags: u32, of which number `flag` becomes 1
// grid       x: rows
// scalars    experts ≤ MAX_EXPERTS, 1 ≤ top_k ≤ experts; normalize ≠ 0 divides by the sum over the chosen; kept, scale: of
//            common/choose
// constants  WG, MAX_EXPERTS, SIGMOID, CORRECTED, GROUPS, REDUCE: of common/choose

//!use common/choose

struct Params {
    experts: u32,
    top_k: u32,
    normalize: u32,
    flag: u32,
    kept: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> correction: array<f32>;
@group(0) @binding(2) var<storage, read_write> chosen: array<u32>;
@group(0) @binding(3) var<storage, read_write> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> flags: array<atomic<u32>>;
var<immediate> p: Params;

fn logit_of(row: u32, expert: u32) -> f32 {
    return logits[row * p.experts + expert];
}

fn correction_of(expert: u32) -> f32 {
    return correction[expert];
}

fn choose(row: u32, slot: u32, expert: u32, weight: f32) {
    chosen[row * p.top_k + slot] = expert;
    weights[row * p.top_k + slot] = weight;
}

@compute @workgroup_size({{WG}})
fn main(@builtin(workgroup_id) group: vec3<u32>, l: Lanes) {
    choose_experts(group.x, l);
}
