// out = x W (+ bias, + residual) for trellis-coded W and up to ROWS rows, straight from the packed words: a workgroup makes a
// Hadamard block of 128 output columns from a range of input blocks.
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
// grid       x: column blocks of all linears; y: splits; z: groups of rows
// constants  TEAMS: teams of 32 lanes, LANES = 32 TEAMS; PARTS: teams that share an input block, BLOCKS = TEAMS / PARTS; ROWS;
//            SLOTS = ROWS · BLOCKS, JOBS: SLOTS up to a multiple of TEAMS; ACTIVATIONS: exact | half | sign, with its constants;
//            EXCHANGE; ROUTE; SPLITS: none | meet | count; the rest is text from `trellis/gemv.rs`
//
// Matrices may differ in their rate: it is the same for all of a workgroup, which does what is written out for its own.

//!use linear/activations_{{ACTIVATIONS}}
//!use linear/params

{{BINDINGS}}

const LANES = {{LANES}}u;
const TEAMS = {{TEAMS}}u;
const PARTS = {{PARTS}}u;
const BLOCKS = {{BLOCKS}}u;

// Of each row and block.
var<workgroup> scales: array<Scales, {{JOBS}}>;
// Sums of some rows: of each row, team, and four columns.
var<workgroup> sums: array<vec4<f32>, {{SUM_ROWS}} * {{LANES}}>;

//!use linear/activation
//!use linear/splits_{{SPLITS}}

{{GATHER}}

// A lane's part of a row and block of the input, and the scales of these channels.
struct Job {
    asked: Asked,
    scale: vec4<f32>,
}

// Job `number` of those that begin at block `base`: zeros if there is no such row or block.
fn job_of(place: Place, number: u32, base: u32, end: u32, suh: u32, lane: u32) -> Job {
    let row = number / BLOCKS;
    let block = base + number % BLOCKS;
    // Inputs of one tile that meet the same eight steps of walks.
    let channel = 128u * block + 16u * (lane >> 2u) + 2u * (lane & 3u);
    var job: Job;
    if row < ROWS && block < end && place.row + row < place.end {
        job.asked = ask(place.x_row + row, channel);
        let scale = suh + channel / 2u;
        job.scale = halves(scale, scale + 4u);
    }
    return job;
}

fn prepare_job(number: u32, job: Job, at: u32) {
    let v = activation(job.asked) * job.scale;
    // Rotated, they add up to the first one.
    let scale = prepare(number, rotate(v, at), v.x * SUM, at);
    if (at & 31u) == 0u {
        scales[number] = scale;
    }
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

    // Asked for early: it is far away.
    let ends = ends_of(place, lane);

    {{TOTALS}}
    {{ASK_FIRST}}
    {{FETCH_FIRST}}
    {{PASSES}}
    {
        // What takes longest to come is asked for first.
        {{FETCH}}
        let live = mine < end;
        {{AWAIT_READERS}}
        {{PREPARE}}
        workgroupBarrier();
        // On their way while weights are decoded.
        {{ASK_NEXT}}
        if live {
            var near = 32u * (team / PARTS) + 8u * part * p.pairs;
            {{ZERO}}
            {{MULTIPLY}}
            {{FLUSH}}
        }
    }
    {{SUM_UP}}
    settle(place, ends, at);
}
