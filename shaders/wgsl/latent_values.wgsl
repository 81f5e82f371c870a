// After latent attention, for few rows: what the parts of the context gave is added up, each weighted by its share of the softmax, and
// each head's latent becomes its value, out[h] = latent[h] · values[h].
//
// bindings   0 parts: f32 [rows, heads, splits, RANK]; 1 stats: f32 [rows, heads, splits, 2]: as latent_attend writes them; 2 values: f16
//            [heads, rank, 4 quads], in fours; 3 out: f32 [rows, heads, width]
// grid       x: quads / 16; y: heads; z: rows
// scalars    quads is a multiple of 16 and at least width / 4
// constants  RANK: of latent_attend; WG: workgroup size, a power of two, at least 16

//!use common/head_product

const RANK = {{RANK}}u;

struct Params {
    heads: u32,
    splits: u32,
    rank: u32,
    width: u32,
    quads: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> values: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
var<immediate> p: Params;

var<workgroup> latent: array<f32, RANK>;

fn input(i: u32) -> f32 {
    return latent[i];
}

fn matrix(at: u32) -> vec2<u32> {
    return values[at];
}

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.z * p.heads + group.y;
    let first = head * p.splits;
    var largest = -1e30;
    if p.splits > 1u {
        for (var s = 0u; s < p.splits; s += 1u) {
            largest = max(largest, stats[first + s].x);
        }
    }
    for (var i = lane; i < p.rank; i += {{WG}}u) {
        var total = 0.0;
        var sum = 0.0;
        if p.splits == 1u {
            total = parts[first * RANK + i];
            sum = 1.0;
        } else {
            for (var s = 0u; s < p.splits; s += 1u) {
                let part = stats[first + s];
                let share = exp2(part.x - largest);
                sum += share * part.y;
                total += share * parts[(first + s) * RANK + i];
            }
        }
        latent[i] = total / sum;
    }
    workgroupBarrier();
    let start = group.y * p.rank * p.quads;
    let product = head_product(start, p.rank, p.quads, group.x, lane);
    let column = 64u * group.x + 4u * lane;
    if lane < 16u {
        for (var c = 0u; c < 4u; c += 1u) {
            if column + c < p.width {
                out[head * p.width + column + c] = product[c];
            }
        }
    }
}
