// What kernels of linears are told, and where a workgroup finds its work.
//
// constants  ROUTE: all | picked | grouped; ROWS: rows of a workgroup

//!use linear/route_{{ROUTE}}

struct Params {
    // Word of the header of each linear, or of its first expert.
    headers: vec4<u32>,
    // Workgroups along x of each linear and all before it.
    ends: vec4<u32>,
    // Headers that differ in one of the bits of `mask` are another dispatch's.
    kind: u32,
    // Values of a row of x.
    width: u32,
    // Rows of out.
    rows: u32,
    // Where experts are picked: rows of out for each of x.
    per_row: u32,
    experts: u32,
    // Trellis: input blocks, and those of a split. Rows: groups of eight inputs.
    blocks: u32,
    per_split: u32,
    splits: u32,
    // trellis_gemv: 4 / PARTS. Not a constant, or compilers unroll what is unrolled enough.
    pairs: u32,
    // The first column block of a dispatch that makes some of them.
    first: u32,
    // Values from a row of x to what belongs to it of another matrix, where the input is silu(x) ∘ that; 0 where it is x.
    up: u32,
    // The first row of out, where experts are picked.
    pick: u32,
    mask: u32,
    // trellis_few, where ranges straddle units: input blocks of all units.
    all: u32,
    // A little less than 1 / blocks, 1 / ends.w, and 1 / per_split.
    one_over: vec3<f32>,
}

var<immediate> p: Params;

const NONE = 0xFFFFFFFFu;
const ROWS = {{ROWS}}u;

struct Place {
    header: u32,
    // 0 where all rows meet the same matrix.
    expert: u32,
    linear: u32,
    // Among the linear's workgroups along x.
    block: u32,
    // Rows of out are from the first to before the last; those of x begin at another.
    row: u32,
    end: u32,
    x_row: u32,
    // Among those that have a part of the unit of work, so many.
    split: u32,
    splits: u32,
    // Among all that is split.
    unit: u32,
}

// Gives false to a workgroup without work.
fn locate(group: vec3<u32>, groups: vec3<u32>, place: ptr<function, Place>) -> bool {
    return aim_at(group, groups, place) && is_ours(weights[(*place).header]);
}

// Whether a matrix is of a kind that this dispatch multiplies with.
fn is_ours(kind: u32) -> bool {
    return (kind & p.mask) == p.kind;
}

// Finds a workgroup's place, and gives false if there is nothing; the header is to be seen.
fn aim_at(group: vec3<u32>, groups: vec3<u32>, place: ptr<function, Place>) -> bool {
    (*place).split = group.y;
    (*place).splits = p.splits;
    return aim(group.x, group.z, groups.x, place);
}

// The same for place `column` of all linears' `columns`, and group `rows` of rows.
fn aim(column: u32, rows: u32, columns: u32, place: ptr<function, Place>) -> bool {
    (*place).header = p.headers.x;
    var begin = 0u;
    if column >= p.ends.x {
        (*place).linear = 1u;
        (*place).header = p.headers.y;
        begin = p.ends.x;
    }
    if column >= p.ends.y {
        (*place).linear = 2u;
        (*place).header = p.headers.z;
        begin = p.ends.y;
    }
    (*place).block = p.first + column - begin;
    (*place).unit = rows * columns + column;
    return route(rows, place);
}
