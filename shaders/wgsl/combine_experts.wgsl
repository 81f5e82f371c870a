// out[r] = residual[r] + Σ_s weights[r][s] · y[place(r, s)] + sigmoid(gate_r) · shared[r]: what the experts of each token made, in the
// order of the slots, and what the expert of all tokens did.
//
// bindings   0 y: f32 [rows·top_k, width]; 1 weights: f32 [rows, top_k]; 2 residual: f32 [rows, width];
//            3 places: u32 [rows·top_k], the row of y of each choice (PLACES is false: they are in order, and it is
//            anything); 4 shared: f32 [rows, width], 5 gate: f32, from value `gate_at` on [rows] (SHARED is false: there is none,
//            and both are anything);
//            6 out: f32 [rows, width]
// grid       x: ceil(width / WG); y: rows
// constants  WG: workgroup size; PLACES, SHARED: true | false

struct Params {
    width: u32,
    top_k: u32,
    gate_at: u32,
}

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> residual: array<f32>;
@group(0) @binding(3) var<storage, read> places: array<u32>;
@group(0) @binding(4) var<storage, read> shared_out: array<f32>;
@group(0) @binding(5) var<storage, read> gate: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let column = group.x * {{WG}}u + lane;
    if column >= p.width {
        return;
    }
    let at = group.y * p.width + column;
    var total = residual[at];
    for (var slot = 0u; slot < p.top_k; slot += 1u) {
        let choice = group.y * p.top_k + slot;
        var place = choice;
        if {{PLACES}} {
            place = places[choice];
        }
        total += weights[choice] * y[place * p.width + column];
    }
    if {{SHARED}} {
        total += shared_out[at] / (1.0 + exp(-gate[p.gate_at + group.y]));
    }
    out[at] = total;
}
