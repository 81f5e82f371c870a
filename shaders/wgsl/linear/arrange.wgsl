// What linears with an input order or a micro-rotation are given: `out[row, i] = input[row, order[i]]`, then runs of ROTATION inputs times the
// Hadamard matrix.
//
// bindings   weights: u32; x: f32 `[rows, width]`; picks (linear/route_…); out0: f32 `[rows, width]`
// grid       x: groups of 128 TEAMS inputs; z: rows
// constants  ROTATION: 1, 16, 32, 64, 128; NORM: 1 / sqrt(ROTATION); TEAMS: teams of 32 lanes, LANES = 32 TEAMS; ROUTE; ROWS: 1; EXCHANGE;
//            the rest is text from `rows.rs`

//!use linear/gated
//!use linear/params
//!use linear/team

{{BINDINGS}}

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
    let first = 128u * ({{TEAMS}}u * place.block + (at >> 5u)) + 4u * (at & 31u);
    let order = weights[place.header + 2u];
    var v = vec4<f32>();
    var ups = vec4<f32>();
    for (var c = 0u; c < 4u; c += 1u) {
        if first + c < p.width {
            var source = first + c;
            if order != NONE {
                source = weights[order + source];
            }
            source += place.x_row * p.width;
            v[c] = x[source];
            ups[c] = x[source + p.up];
        }
    }
    if p.up != 0u {
        v = silu(v) * ups;
    }
    if {{ROTATION}}u > 1u {
        v = vec4<f32>(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
        v = vec4<f32>(v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w);
        for (var mask = 1u; mask < {{ROTATION}}u / 4u; mask = mask << 1u) {
            let other = exchange(v, at, mask);
            v = select(other + v, other - v, (at & mask) != 0u);
        }
        v *= {{NORM}};
    }
    for (var c = 0u; c < 4u; c += 1u) {
        if first + c < p.width {
            out0[place.row * p.width + first + c] = v[c];
        }
    }
}
