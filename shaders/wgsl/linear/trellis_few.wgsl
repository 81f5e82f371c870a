// out = x W (+ bias, + residual) for trellis-coded W and up to ROWS rows, straight from the packed words. linear/trellis_gemv, its
// sister for one row, says how words lie and how they are decoded.
//
// A unit of work is a Hadamard block of 128 output columns of a group of rows. A workgroup has some input blocks of one unit or, so that
// all have as much to do, of the end of one and the beginning of the next (linear/span_…). All blocks are prepared first; then teams of
// 32 lanes share their pairs of rows of tiles evenly, in order, and what they have is added up for each unit.
//
// bindings   weights: u32, codes: the same in fours, slab of headers, words, scales (see the crate's README); x: f32 `[rows, width]`;
//            by constants: picks (linear/route_…): u32, residual: f32 as out, out0…: f32 `[rows, outputs of the linear]`, and
//            what linear/splits_… needs
// grid       by linear/span_…
// constants  TEAMS: teams of 32 lanes, LANES = 32 TEAMS; ROWS; SLOTS: ROWS times blocks of a workgroup, JOBS: SLOTS up to a multiple of
//            TEAMS; SUM_ROWS: rows that are summed up at a time; ACTIVATIONS: exact | half, with its constants; EXCHANGE; ROUTE; SPAN:
//            unit | range; SPLITS: none | meet | count; the rest is text from `trellis/few.rs`
//
// Matrices may differ in their rate: what is written out for it is chosen for each unit.

//!use linear/activations_{{ACTIVATIONS}}
//!use linear/params
//!use linear/header

{{BINDINGS}}

const LANES = {{LANES}}u;
const TEAMS = {{TEAMS}}u;

// Of each row and block.
var<workgroup> scales: array<Scales, {{JOBS}}>;
// Sums of some rows: of each row, team, and four columns.
var<workgroup> sums: array<vec4<f32>, {{SUM_ROWS}} * LANES>;
// What the team that goes from one unit to the next has of the first: of each row and four columns.
var<workgroup> carried: array<vec4<f32>, 32u * ((SIDES - 1u) * (ROWS - 1u) + 1u)>;

// What a workgroup has of one unit of work and, if it straddles two, of the next.
struct Span {
    one: Place,
    next: Place,
    one_header: Header,
    next_header: Header,
    // The first block, of those of `one`.
    start: u32,
    // Blocks: those before the edge are of `one`, the others the first ones of `next`.
    count: u32,
    edge: u32,
    // Where it may straddle: which unit `one` is, and which range the workgroup's.
    unit: u32,
    range: u32,
}

//!use linear/jobs
//!use linear/span_{{SPAN}}
//!use linear/splits_{{SPLITS}}

// Where words are, in fours. Pairs of rows of tiles are counted from the first of the workgroup, and from the cut on are `next`'s.
struct Words {
    one: u32,
    next: u32,
    one_fours: u32,
    next_fours: u32,
    cut: u32,
}

fn word_of(words: Words, pair: u32) -> u32 {
    if SIDES == 2u && pair >= words.cut {
        return words.next + (pair - words.cut) * words.next_fours;
    }
    return words.one + pair * words.one_fours;
}

// The first of `pairs` pairs that team `team` has.
fn share(team: u32, pairs: u32) -> u32 {
    return team * (pairs / TEAMS) + min(team, pairs % TEAMS);
}

// Whose sums are of which unit: the first teams' of the one, the others' of the next, and what was carried of the one.
struct TeamSums {
    within: u32,
    carries: bool,
}

fn team_sums_of(cut: u32, pairs: u32) -> TeamSums {
    if SIDES == 1u {
        return TeamSums(TEAMS, false);
    }
    let more = pairs % TEAMS;
    let each = pairs / TEAMS;
    let long = more * (each + 1u);
    var within = cut / (each + 1u);
    if cut >= long {
        within = min(more + (cut - long) / max(each, 1u), TEAMS);
    }
    return TeamSums(within, within < TEAMS && share(within, pairs) < cut);
}

// What all teams have of row `row`, which is `nth` in `sums`: nothing, if it is none.
fn gathered(whose: TeamSums, nth: u32, row: u32, is_next: bool, lane: u32) -> vec4<f32> {
    var y = vec4<f32>();
    if row >= ROWS {
        return y;
    }
    for (var t = 0u; t < TEAMS; t += 1u) {
        let here = sums[nth * LANES + 32u * t + lane];
        if SIDES == 1u {
            y += here;
        } else {
            y += select(vec4<f32>(), here, (t >= whose.within) == is_next);
        }
    }
    if SIDES == 2u && whose.carries && !is_next {
        y += carried[32u * row + lane];
    }
    return y;
}

@compute @workgroup_size({{LANES}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    let lane = at & 31u;
    let team = at >> 5u;
    var span: Span;
    if !find_span(group, groups, &span) {
        return;
    }
    let flip = span.one_header.flip;
    // Of a run, the word before the first: the last of the run before, also round the walk.
    let before = (lane & 24u) | ((lane + 7u) & 7u);

    let pairs = 4u * span.count;
    let head = share(team, pairs);
    let tail = share(team + 1u, pairs);
    var words: Words;
    words.cut = 4u * span.edge;
    words.one_fours = {{ONE_FOURS}};
    words.one = span.one_header.words / 4u
        + (span.one.block * p.blocks + span.start) * (4u * words.one_fours);
    if SIDES == 2u {
        words.next_fours = {{NEXT_FOURS}};
        words.next = span.next_header.words / 4u
            + span.next.block * p.blocks * (4u * words.next_fours);
    }

    // The unit whose sums this team ends. As in linear/trellis_gemv, waited for before inputs and words.
    let place = place_of(span, team);
    let ends = ends_of(place, lane);

    {{TOTALS}}
    {{PREPARE}}
    workgroupBarrier();
    {{MULTIPLY}}
    let team_sums = team_sums_of(words.cut, pairs);
    {{SUM_UP}}
    settle(place, ends, at);
}
