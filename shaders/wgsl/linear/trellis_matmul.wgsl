// Sums of products, in f32, of up to ROWS rows and trellis-coded columns by cooperative matrices of 16 × 16 × 16: weights are decoded
// once for a group of rows and never leave the workgroup. Teams of 32 lanes, a subgroup each, make 128 columns.
//
// A team decodes a pair of rows of tiles, 32 inputs by 128 columns, one of the two rows at a time, to workgroup memory; then each team
// multiplies its COLUMNS column tiles with what all of them decoded. Matrices are loaded as fours of halves: some drivers fail at
// memory of another type.
//
// bindings   weights: u32; codes: the same in fours; x: f16 `[groups, inputs / 16, ROWS / 16, 16 rows, 16 inputs]`, in
//            fours, of linear/matmul_inputs; picks (linear/route_…); out0: f32 `[splits, ROWS groups, 128 column blocks]`
// grid       x: column blocks; y: splits; z: groups of rows
// constants  ROUTE; ROWS: a multiple of 16, up to 64; TEAMS: 4 or 8, LANES = 32 TEAMS, COLUMNS = 8 / TEAMS; PITCH: fours from a
//            decoded column to the next, FOURS: all of them; PAIR_FOURS: 32 K; the rest is text from `trellis/whole.rs`
// needs      f16, subgroups of 32 and the feature EXPERIMENTAL_COOPERATIVE_MATRIX

enable f16;
enable wgpu_cooperative_matrix;

//!use linear/params
//!use linear/two_halves

{{BINDINGS}}

const TEAMS = {{TEAMS}}u;
// Fours of halves from a column of a tile to the next, and those of a tile.
const PITCH = {{PITCH}}u;
const TILE = 16u * PITCH;

// Of each team, eight tiles by column.
var<workgroup> decoded: array<vec4<f16>, {{FOURS}}>;
var<workgroup> has_work: u32;

@compute @workgroup_size({{LANES}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    var place: Place;
    if locate(group, groups, &place) {
        has_work = 1u;
    } else {
        has_work = 0u;
    }
    // The same for all, said so that it can be seen: matrices are multiplied by all or none.
    if workgroupUniformLoad(&has_work) == 0u {
        return;
    }
    let lane = at & 31u;
    let team = at >> 5u;
    let before = (lane & 24u) | ((lane + 7u) & 7u);
    let flip = weights[place.header + 7u];
    let words = weights[place.header + 1u] / 4u + place.block * p.blocks * (4u * {{PAIR_FOURS}}u);
    let first = 4u * group.y * p.per_split;
    let end = min(first + 4u * p.per_split, 4u * p.blocks);
    let near = TILE * (8u * team + (lane >> 3u)) + PITCH * (lane & 7u);
    let width = 128u * groups.x;
    let to = ((group.y * groups.z + group.z) * ROWS) * width + 128u * group.x + 16u * {{COLUMNS}}u * team;
    let near_columns = TILE * {{COLUMNS}}u * team;
    // 4 and PITCH, computed: naga wants arguments that were.
    let across = min(width, 4u);
    let pitch = min(width, PITCH);

    {{ACCUMULATORS}}
    for (var pair = first; pair < end; pair += TEAMS) {
        // Of the last teams there may be some without a pair: theirs are zeros.
        let mine = min(pair + team, end - 1u);
        let live = pair + team < end;
        let scale = vec2<f16>(select(0.0h, {{SCALE}}h, live));
        let offset = vec2<f16>(select(0.0h, {{OFFSET}}h, live));
        let word = words + mine * {{PAIR_FOURS}}u;
        let steps = min(TEAMS, end - pair);
        let rows = (group.z * 8u * p.blocks + 2u * pair) * (4u * ROWS);
        {{FETCH}}
        {{AHEAD_FIRST}}
        workgroupBarrier();
        {
            {{DECODE_FIRST}}
        }
        workgroupBarrier();
        {
            {{MULTIPLY_FIRST}}
        }
        {{AHEAD_SECOND}}
        workgroupBarrier();
        {
            {{DECODE_SECOND}}
        }
        workgroupBarrier();
        {
            {{MULTIPLY_SECOND}}
        }
    }
    {{STORE_SUMS}}
}
