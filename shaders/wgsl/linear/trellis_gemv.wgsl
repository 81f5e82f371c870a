// out = x W (+ bias, + residual) for trellis-coded W and one row, straight from the packed words: a workgroup makes a Hadamard block
// of 128 output columns from a range of input blocks. linear/trellis_few is its sister for more rows.
//
// A team of 32 lanes decodes pairs of rows of tiles, 32 inputs by 128 outputs, of which a lane has 128 weights: four runs of 32 steps
// of a tile's walk, all 16 inputs of two columns. A run is K words and the one before them, read together with those of the other
// three; its windows stand at places known here, so that what is generated per weight (`DECODE`) is a shift, a mask, and the
// codebook's arithmetic. Teams prepare (scale, rotate, quantize) the blocks of activations for each other.
//
// The input axis may be cut among `grid.y` workgroups, whose sums come together as SPLITS says.
//
// bindings   weights: u32, codes: the same in fours, slab of headers, words, scales (see the crate's README); x: f32 `[rows, width]`;
//            by constants: picks (linear/route_…): u32, residual: f32 as out, out0…: f32 `[rows, outputs of the linear]`, and
//            what linear/splits_… needs
// grid       x: column blocks of all linears; y: splits; z: rows
// constants  TEAMS: teams of 32 lanes, LANES = 32 TEAMS; PARTS: teams that share an input block, BLOCKS = TEAMS / PARTS; ROWS = 1;
//            ACTIVATIONS: exact | half | sign, with its constants, SLOTS = BLOCKS; EXCHANGE; ROUTE; SPLITS: none | meet; the rest is
//            text from `trellis/gemv.rs`
//
// Matrices may differ in their rate: it is the same for all of a workgroup, which does what is written out for its own.

//!use linear/activations_{{ACTIVATIONS}}
//!use linear/params

{{BINDINGS}}

const LANES = {{LANES}}u;
const TEAMS = {{TEAMS}}u;
const PARTS = {{PARTS}}u;
const BLOCKS = {{BLOCKS}}u;

// Of each block.
var<workgroup> scales: array<Scales, TEAMS>;
// Of each team and four columns.
var<workgroup> sums: array<vec4<f32>, LANES>;

//!use linear/jobs
//!use linear/splits_{{SPLITS}}

// What all teams have of four columns of row `row`: nothing, if it is none.
fn gathered(row: u32, lane: u32) -> vec4<f32> {
    var y = vec4<f32>();
    if row < ROWS {
        for (var t = 0u; t < TEAMS; t += 1u) {
            y += sums[32u * t + lane];
        }
    }
    return y;
}

// A team's job of those that begin at block `base`: zeros if it has none.
fn own_job(place: Place, suh: u32, team: u32, base: u32, end: u32, lane: u32) -> Job {
    let block = base + team % BLOCKS;
    return job_of(place, suh, team / BLOCKS, block, block < end, lane);
}

@compute @workgroup_size({{LANES}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    let lane = at & 31u;
    let team = at >> 5u;
    let part = team % PARTS;
    var place: Place;
    if !locate(group, groups, &place) {
        return;
    }
    // Words are counted in fours, as they are read.
    let pair_fours = {{PAIR_FOURS}};
    let words = weights[place.header + 1u] / 4u + place.block * p.blocks * (4u * pair_fours);
    let suh = weights[place.header + 2u];
    // Not a literal: a mask and a flip are one operation of three inputs, of which one may be a literal.
    let flip = weights[place.header + 7u];
    let first = group.y * p.per_split;
    let end = min(first + p.per_split, p.blocks);
    // Of a run, the word before the first: the last of the run before, also round the walk.
    let before = (lane & 24u) | ((lane + 7u) & 7u);

    // Asked for, and waited for, before inputs and words: that is faster than asking for all at once (docs/performance.md).
    let ends = ends_of(place, lane);

    var total0 = vec4<f32>();
    var job = own_job(place, suh, team, first, end, lane);
    {{FETCH_FIRST}}
    {{PASSES}}
    {
        // What takes longest to come is asked for first.
        {{FETCH}}
        let live = mine < end;
        {{AWAIT_READERS}}
        prepare_job(team, job, at);
        workgroupBarrier();
        // On their way while weights are decoded.
        {{ASK_NEXT}}
        if live {
            var near = 32u * (team / PARTS) + 8u * part * p.pairs;
            {{ZERO}}
            {{MULTIPLY}}
            total0 += scaled({{SUMS}}, scales[team / PARTS], part == 0u);
        }
    }
    {{SPREAD}}
    workgroupBarrier();
    // All teams, though only the first one's row is one: that is faster than if the others were done.
    conclude(place, ends, team, gathered(team, lane), at);
    settle(place, ends, at);
}
