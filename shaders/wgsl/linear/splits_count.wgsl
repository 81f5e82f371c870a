// Ends rows whose inputs are cut among workgroups: all leave their sums, and the last to arrive adds them up in order, so that the
// result does not depend on who is last.
//
// bindings   partials: atomic u32, `[units, splits, ROWS, 128]`; counters: atomic u32 for each unit, zeros before and after
// constants  TEAMS: teams of 32 lanes of a workgroup

//!use linear/finish_rotated

var<workgroup> arrived: u32;

// Where the sums of a row and split are.
fn partial(place: Place, split: u32, row: u32, at: u32) -> u32 {
    return 128u * ((place.unit * p.splits + split) * ROWS + row) + 4u * (at & 31u);
}

// Row `row` of those of the workgroup, or ROWS for none; `rotated` are its sums.
fn conclude(place: Place, ends: Ends, row: u32, rotated: vec4<f32>, at: u32) {
    if row < ROWS {
        let to = partial(place, place.split, row, at);
        for (var c = 0u; c < 4u; c += 1u) {
            atomicStore(&partials[to + c], bitcast<u32>(rotated[c]));
        }
    }
}

// All lanes must call, once all rows are concluded.
fn settle(place: Place, ends: Ends, at: u32) {
    // Sums are out before the workgroup counts as arrived.
    storageBarrier();
    if at == 0u {
        arrived = atomicAdd(&counters[place.unit], 1u);
    }
    if workgroupUniformLoad(&arrived) + 1u < p.splits {
        return;
    }
    storageBarrier();
    if at == 0u {
        atomicStore(&counters[place.unit], 0u);
    }
    // Teams without a row add up none.
    for (var first = 0u; first < ROWS; first += TEAMS) {
        let row = first + (at >> 5u);
        var sums = vec4<f32>();
        if row < ROWS {
            for (var split = 0u; split < p.splits; split += 1u) {
                let here = partial(place, split, row, at);
                for (var c = 0u; c < 4u; c += 1u) {
                    sums[c] += bitcast<f32>(atomicLoad(&partials[here + c]));
                }
            }
        }
        finish(place, ends, row, sums, at);
    }
}
