// A tile of 64 × 64 of a product, by 256 lanes: sum over k of left(row, k) · right(k, column), 16 k at a time through workgroup memory.
//
// Whoever imports it defines fn left(row: u32, k: u32) -> f32 and fn right(k: u32, column: u32) -> f32, which give 0 beyond what
// there is, and const BY_DEPTH: bool, whether neighbours in memory of left are neighbours in k. All lanes must call.

const DEPTH = 16u;
// Rows of both in vectors of four, and one that keeps lanes off each other's banks.
const PITCH = 17u;

var<workgroup> lefts: array<vec4<f32>, PITCH * DEPTH>;
var<workgroup> rights: array<vec4<f32>, PITCH * DEPTH>;

// Four rows, from 4 · (lane / 16) of the tile on, of the four columns from 4 · (lane % 16) on.
struct Tile {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

fn product(row: u32, column: u32, depth: u32, lane: u32) -> Tile {
    var tile = Tile();
    for (var first = 0u; first < depth; first += DEPTH) {
        workgroupBarrier();
        for (var i = lane; i < 64u * DEPTH; i += 256u) {
            var k = i / 64u;
            var at = i % 64u;
            rights[k * PITCH + at / 4u][at % 4u] = right(first + k, column + at);
            if BY_DEPTH {
                k = i % DEPTH;
                at = i / DEPTH;
            }
            lefts[k * PITCH + at / 4u][at % 4u] = left(row + at, first + k);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += 1u) {
            let l = lefts[k * PITCH + lane / 16u];
            let r = rights[k * PITCH + lane % 16u];
            tile.a = fma(vec4(l.x), r, tile.a);
            tile.b = fma(vec4(l.y), r, tile.b);
            tile.c = fma(vec4(l.z), r, tile.c);
            tile.d = fma(vec4(l.w), r, tile.d);
        }
    }
    return tile;
}

// Row `i` of the four.
fn row_of(tile: Tile, i: u32) -> vec4<f32> {
    return select(select(tile.a, tile.b, i == 1u), select(tile.c, tile.d, i == 3u), i > 1u);
}
