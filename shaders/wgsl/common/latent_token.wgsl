// What happens to a new token's latent and queries before latent attention: the latent is normed, the part of the key that rotates is
// rotated, and both are appended to the cache; the part of each query that rotates is rotated. Workgroup (any, number, row): `number`
// is a head, or `heads` for the latent.
//
// The user has the scalars of latent_queries, declares its q, latent, norm, turns, absorbed and cache, and imports common/rms.
//
// constants  RANK: a latent's width in the cache, a multiple of 64; WIDTH: with what rotates, a multiple of 8; WG; PAIRING:
//            half_split | interleaved
//
// What is beyond a latent's own width, and beyond what rotates, is zero.

//!use common/finite
//!use common/pairing_{{PAIRING}}

const RANK = {{RANK}}u;
const WIDTH = {{WIDTH}}u;

fn half_pair(a: f32, b: f32) -> u32 {
    return cut_halves(vec2(a, b));
}

// Two values, turned by the angle of a pair at a row's position.
fn turn(values: vec2<f32>, pair: u32, row: u32) -> vec2<f32> {
    let at = (p.position + row) * p.dims + pair;
    let cosine = turns[at];
    let sine = turns[at + p.dims / 2u];
    return vec2(
        values.x * cosine - values.y * sine,
        values.y * cosine + values.x * sine,
    );
}

var<workgroup> rotating: array<f32, WIDTH - RANK>;

fn append_latent(row: u32, l: Lanes) {
    let start = row * (p.rank + p.dims);
    var squares = 0.0;
    for (var i = l.lane; i < p.rank; i += {{WG}}u) {
        squares += latent[start + i] * latent[start + i];
    }
    let factor = inverse_rms(squares, p.rank, p.epsilon, l);
    let words = (p.position + row) * (WIDTH / 2u);
    for (var i = l.lane; i < RANK / 2u; i += {{WG}}u) {
        var pair = vec2(0.0);
        for (var c = 0u; c < 2u; c += 1u) {
            let at = 2u * i + c;
            if at < p.rank {
                pair[c] = latent[start + at] * factor * norm[at];
            }
        }
        cache[words + i] = half_pair(pair.x, pair.y);
    }
    for (var i = l.lane; i < WIDTH - RANK; i += {{WG}}u) {
        rotating[i] = 0.0;
    }
    workgroupBarrier();
    for (var i = l.lane; i < p.dims / 2u; i += {{WG}}u) {
        let pair = pair_of(i, p.dims);
        let key = start + p.rank;
        let turned = turn(vec2(latent[key + pair.x], latent[key + pair.y]), i, row);
        rotating[pair.x] = turned.x;
        rotating[pair.y] = turned.y;
    }
    workgroupBarrier();
    for (var i = l.lane; i < (WIDTH - RANK) / 2u; i += {{WG}}u) {
        cache[words + RANK / 2u + i] = half_pair(rotating[2u * i], rotating[2u * i + 1u]);
    }
}

fn rotate_query(row: u32, head: u32, l: Lanes) {
    let start = (row * p.heads + head) * (p.nope + p.dims) + p.nope;
    let to = (row * p.heads + head) * WIDTH + RANK;
    for (var i = l.lane; i < p.dims / 2u; i += {{WG}}u) {
        let pair = pair_of(i, p.dims);
        let turned = turn(vec2(q[start + pair.x], q[start + pair.y]), i, row);
        absorbed[to + pair.x] = turned.x;
        absorbed[to + pair.y] = turned.y;
    }
    for (var i = RANK + p.dims + l.lane; i < WIDTH; i += {{WG}}u) {
        absorbed[(row * p.heads + head) * WIDTH + i] = 0.0;
    }
}
