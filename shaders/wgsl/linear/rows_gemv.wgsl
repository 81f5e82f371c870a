// out = x Wᵀ (+ bias, + residual) for W stored row by row, eight inputs at a time, and up to ROWS rows of x: a team of 32 lanes makes
// four outputs, of which a lane multiplies every 32nd group of eight inputs.
//
// bindings   weights: u32, slab of headers, codes, scales (see the crate's README); x: f32 `[rows, width]`; by constants: picks
//            (linear/route_…), residual: f32 as out, out0…: f32 `[rows, outputs of the linear]`
// grid       x: groups of 4 TEAMS outputs, of all linears; z: groups of rows
// constants  WEIGHTS, with its constants; TEAMS: teams of 32 lanes, LANES = 32 TEAMS; ROWS; ROUTE; EXCHANGE; the rest is text from
//            `rows.rs`

//!use linear/params
//!use linear/team
//!use linear/stored

{{BINDINGS}}

{{STORE}}

//!use linear/inputs

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
    let lane = at & 31u;
    let outputs = weights[place.header + 5u];
    let output = 4u * ({{TEAMS}}u * place.block + (at >> 5u));
    let store_of = stored(place.header);
    var sums: array<vec4<f32>, {{ROWS}}>;
    for (var r = 0u; r < ROWS; r += 1u) {
        sums[r] = vec4<f32>();
    }
    if output < outputs {
        // Rows beyond the last are computed as it, and not stored.
        let last = outputs - 1u;
        for (var chunk = lane; chunk < p.blocks; chunk += 32u) {
            let w0 = eight(store_of, output, chunk);
            let w1 = eight(store_of, min(output + 1u, last), chunk);
            let w2 = eight(store_of, min(output + 2u, last), chunk);
            let w3 = eight(store_of, min(output + 3u, last), chunk);
            for (var r = 0u; r < ROWS; r += 1u) {
                let row = min(place.row + r, place.end - 1u) - place.row;
                let v = activations(place.x_row + row, chunk);
                sums[r] += vec4<f32>(
                    dot(w0.low, v.low) + dot(w0.high, v.high),
                    dot(w1.low, v.low) + dot(w1.high, v.high),
                    dot(w2.low, v.low) + dot(w2.high, v.high),
                    dot(w3.low, v.low) + dot(w3.high, v.high),
                );
            }
        }
    }
    let bias = weights[place.header + 4u];
    for (var r = 0u; r < ROWS; r += 1u) {
        var y = sums[r];
        for (var mask = 1u; mask < 32u; mask = mask << 1u) {
            y += exchange(y, at, mask);
        }
        // A lane for each of the four outputs.
        let column = output + lane;
        if lane < 4u && column < outputs && place.row + r < place.end {
            var value = y[lane];
            if bias != NONE {
                value += bitcast<f32>(weights[bias + column]);
            }
            store(place.linear, (place.row + r) * outputs + column, value);
        }
    }
}
