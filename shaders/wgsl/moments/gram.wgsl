// sums += Σ_r counts[r] x[r] x[r]ᵀ over all rows, or over those of each expert: tiles of 128 by 128 on the diagonal and below it. Rows
// that count less than nothing are left out. Sums are taken in the order of rows.
//
// bindings   0 x: f32 [rows, width]; 1 counts: f32 [rows]; 2 offsets: u32 [experts + 1], where each expert's rows begin (GROUPED is false:
//            anything); 3 sums: f32 in fours, a slot of `slot` fours for each expert: tiles [128, 128], row by row of tiles, and behind
//            them how much the rows counted, how many they were, and how many were left out
// grid       x: tiles, n (n + 1) / 2 with n = ceil(width / 128); y: experts, from `first` on; workgroups of 256 lanes
// scalars    expert `first` has slot number `start`; what is beyond the width in a tile is zero
// constants  GROUPED: true | false

struct Params {
    width: u32,
    rows: u32,
    first: u32,
    start: u32,
    slot: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> counts: array<f32>;
@group(0) @binding(2) var<storage, read> offsets: array<u32>;
@group(0) @binding(3) var<storage, read_write> sums: array<vec4<f32>>;
var<immediate> p: Params;

// Rows staged at once.
const DEPTH = 16u;
// Fours of a tile's row, and of a tile.
const QUADS = 32u;
const TILE = 4096u;

// [row][four columns]: of the tile's rows, weighted, and of its columns.
var<workgroup> down: array<vec4<f32>, DEPTH * QUADS>;
var<workgroup> across: array<vec4<f32>, DEPTH * QUADS>;

// Four columns of a row, zeros beyond the last.
fn four(row: u32, column: u32) -> vec4<f32> {
    let at = row * p.width + column;
    var values = vec4<f32>();
    if column + 3u < p.width {
        values = vec4(x[at], x[at + 1u], x[at + 2u], x[at + 3u]);
    } else {
        for (var i = 0u; i < 4u; i += 1u) {
            if column + i < p.width {
                values[i] = x[at + i];
            }
        }
    }
    return values;
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    var begin = 0u;
    var end = p.rows;
    if {{GROUPED}} {
        begin = offsets[p.first + group.y];
        end = offsets[p.first + group.y + 1u];
    }
    if begin >= end {
        return;
    }
    // The tile's place: rows of tiles have one, two, three… tiles.
    var top = 0u;
    var left = group.x;
    while left > top {
        top += 1u;
        left -= top;
    }
    // This lane's four rows and four columns, and as many 64 behind them.
    let row = lane / 16u;
    let column = lane % 16u;
    var totals: array<vec4<f32>, 16>;
    for (var i = 0u; i < 16u; i += 1u) {
        totals[i] = vec4<f32>();
    }
    for (var base = begin; base < end; base += DEPTH) {
        workgroupBarrier();
        for (var i = lane; i < DEPTH * QUADS; i += 256u) {
            let r = base + i / QUADS;
            let quad = 4u * (i % QUADS);
            var own = vec4<f32>();
            var other = vec4<f32>();
            if r < end {
                let count = counts[r];
                if count > 0.0 {
                    own = count * four(r, 128u * top + quad);
                    other = four(r, 128u * left + quad);
                }
            }
            down[i] = own;
            across[i] = other;
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += 1u) {
            let a = down[k * QUADS + row];
            let b = down[k * QUADS + row + 16u];
            let c = across[k * QUADS + column];
            let d = across[k * QUADS + column + 16u];
            totals[0] = fma(vec4(a.x), c, totals[0]);
            totals[1] = fma(vec4(a.x), d, totals[1]);
            totals[2] = fma(vec4(a.y), c, totals[2]);
            totals[3] = fma(vec4(a.y), d, totals[3]);
            totals[4] = fma(vec4(a.z), c, totals[4]);
            totals[5] = fma(vec4(a.z), d, totals[5]);
            totals[6] = fma(vec4(a.w), c, totals[6]);
            totals[7] = fma(vec4(a.w), d, totals[7]);
            totals[8] = fma(vec4(b.x), c, totals[8]);
            totals[9] = fma(vec4(b.x), d, totals[9]);
            totals[10] = fma(vec4(b.y), c, totals[10]);
            totals[11] = fma(vec4(b.y), d, totals[11]);
            totals[12] = fma(vec4(b.z), c, totals[12]);
            totals[13] = fma(vec4(b.z), d, totals[13]);
            totals[14] = fma(vec4(b.w), c, totals[14]);
            totals[15] = fma(vec4(b.w), d, totals[15]);
        }
    }
    let slot = (p.start + group.y) * p.slot;
    for (var i = 0u; i < 8u; i += 1u) {
        let at = slot + group.x * TILE + (4u * row + i % 4u + i / 4u * 64u) * QUADS + column;
        sums[at] += totals[2u * i];
        sums[at + 16u] += totals[2u * i + 1u];
    }
    if group.x != 0u {
        return;
    }
    // One tile counts for all.
    var counted = vec4<f32>();
    for (var r = begin + lane; r < end; r += 256u) {
        let count = counts[r];
        counted += select(vec4(0.0, 0.0, 1.0, 0.0), vec4(count, 1.0, 0.0, 0.0), count >= 0.0);
    }
    workgroupBarrier();
    down[lane] = counted;
    workgroupBarrier();
    if lane == 0u {
        var all = vec4<f32>();
        for (var i = 0u; i < 256u; i += 1u) {
            all += down[i];
        }
        let tiles = (p.width + 127u) / 128u;
        sums[slot + tiles * (tiles + 1u) / 2u * TILE] += all;
    }
}
