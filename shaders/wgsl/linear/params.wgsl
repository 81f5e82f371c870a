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
    // Trellis: 4 / PARTS. Not a constant, or compilers unroll what is unrolled enough.
    pairs: u32,
    // The first column block of a dispatch that makes some of them.
    first: u32,
    // Values from a row of x to what belongs to it of another matrix, where the input is silu(x) ∘ that; 0 where it is x.
    up: u32,
    // The first row of out, where experts are picked.
    pick: u32,
    mask: u32,
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
    split: u32,
    // Among all that is split.
    unit: u32,
}

// Gives false to a workgroup without work.
fn locate(group: vec3<u32>, groups: vec3<u32>, place: ptr<function, Place>) -> bool {
    (*place).header = p.headers.x;
    var begin = 0u;
    if group.x >= p.ends.x {
        (*place).linear = 1u;
        (*place).header = p.headers.y;
        begin = p.ends.x;
    }
    if group.x >= p.ends.y {
        (*place).linear = 2u;
        (*place).header = p.headers.z;
        begin = p.ends.y;
    }
    (*place).block = p.first + group.x - begin;
    (*place).split = group.y;
    (*place).unit = group.z * groups.x + group.x;
    return route(group.z, place) && (weights[(*place).header] & p.mask) == p.kind;
}
