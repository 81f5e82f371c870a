// out = x W (+ bias, + residual) for trellis-coded W and many rows, without matrix units: a workgroup makes ROWS rows of a Hadamard block
// of 128 output columns, a lane each.
//
// Weights are decoded once for all rows, 32 inputs at a time, to f16 in workgroup memory, exactly as the format says. Activations come
// from linear/trellis_rotate, straight from its output; rows that are not the workgroup's are multiplied too and go nowhere.
//
// With SPLITS, the input axis is cut among `grid.y` workgroups, as in linear/trellis_gemv.
//
// bindings   weights: u32, slab of headers, words, scales; x: f16 `[rows + ROWS, 128 blocks]`; picks (linear/route_…), residual, out0, partials,
//            counters as in linear/trellis_gemv
// grid       x: column blocks; y: splits; z: groups of rows
// constants  ROWS: a multiple of 16; ROUTE; BITS; PAIR_WORDS: 128 K; the rest is text from `trellis.rs`
// needs      f16

enable f16;

//!use linear/params
//!use linear/team

{{BINDINGS}}

fn halves(first: u32, second: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(weights[first]), unpack2x16float(weights[second]));
}

//!use linear/finish

const TEAMS = 4u;
// Halves from a column to the next, so that columns lie in different banks.
const STRIDE = 40u;
const STEP = 128u * STRIDE;

// Two steps' weights, by column.
var<workgroup> decoded: array<f16, 2u * STEP>;
// Sums of 16 rows, by row.
var<workgroup> stage: array<f32, 16u * 132u>;

{{GATHER}}

@compute @workgroup_size({{LANES}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    var place: Place;
    if !locate(group, groups, &place) {
        return;
    }
    let lane = at & 31u;
    // A team decodes one of the four runs that a lane of linear/trellis_gemv has.
    let team = at >> 5u;
    let before = (lane & 24u) | ((lane + 7u) & 7u);
    let ends = ends_of(place, lane);
    let first = 4u * group.y * p.per_split;
    let end = min(first + 4u * p.per_split, 4u * p.blocks);
    var word = weights[place.header + 1u] + (place.block * p.blocks * 4u + first) * {{PAIR_WORDS}}u;
    // Where the run's first column begins, and its inputs in it.
    let column = STRIDE * (16u * (4u * (team & 1u) + (lane >> 3u)) + (lane & 7u)) + 16u * (team >> 1u);
    let x_stride = 128u * p.blocks;
    let x_start = place.row * x_stride;

    {{ACCUMULATORS}}
    {{AHEAD}}
    for (var pair = first; pair < end; pair += 1u) {
        let step = STEP * (pair & 1u);
        let to = step + column;
        {{DECODE}}
        word += select(0u, {{PAIR_WORDS}}u, pair + 1u < end);
        {{FETCH_AHEAD}}
        workgroupBarrier();
        let inputs = x_start + 32u * pair;
        {{MULTIPLY}}
    }
    {{SUM_UP}}
}
