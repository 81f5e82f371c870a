// Ends rows whose inputs are cut among workgroups: all leave their sums, and the last to arrive adds them up in order, so that the
// result does not depend on who is last.
//
// bindings   partials: atomic u32, `[units, splits, ROWS, 128]`; counters: atomic u32 for each unit, zeros before and after
// constants  TEAMS: teams of 32 lanes of a workgroup; SIDES: units that it may have a part of, every second team's the second

//!use linear/finish_rotated

// Whether the workgroup is the last of its one unit, and of the next.
var<workgroup> arrived: array<u32, 2>;

// Where the sums of a row and split are.
fn partial(place: Place, split: u32, row: u32, at: u32) -> u32 {
    return 128u * ((place.unit * p.splits + split) * ROWS + row) + 4u * (at & 31u);
}

// Row `row` of those of the workgroup, or ROWS for none; `rotated` are its sums.
fn conclude(place: Place, ends: Ends, row: u32, rotated: vec4<f32>, at: u32) {
    if row < ROWS && place.splits > 0u {
        let to = partial(place, place.split, row, at);
        for (var c = 0u; c < 4u; c += 1u) {
            atomicStore(&partials[to + c], bitcast<u32>(rotated[c]));
        }
    }
}

// All lanes must call, once all rows are concluded.
fn settle(place: Place, ends: Ends, at: u32) {
    let team = at >> 5u;
    let leads = team < 2u && (at & 31u) == 0u;
    // Sums are out before the workgroup counts as arrived.
    storageBarrier();
    if leads {
        arrived[team] = 0u;
        if team < SIDES && place.splits > 0u {
            arrived[team] = u32(atomicAdd(&counters[place.unit], 1u) + 1u == place.splits);
        }
    }
    let last = workgroupUniformLoad(&arrived);
    if last[0] + last[1] == 0u {
        return;
    }
    storageBarrier();
    let mine = select(last[0], last[1], team % SIDES == 1u) == 1u;
    if leads && team < SIDES && mine {
        atomicStore(&counters[place.unit], 0u);
    }
    // Teams without a row add up none.
    for (var first = 0u; first < ROWS; first += TEAMS / SIDES) {
        let row = select(ROWS, first + team / SIDES, mine);
        var sums = vec4<f32>();
        if row < ROWS {
            for (var split = 0u; split < place.splits; split += 1u) {
                let here = partial(place, split, row, at);
                for (var c = 0u; c < 4u; c += 1u) {
                    sums[c] += bitcast<f32>(atomicLoad(&partials[here + c]));
                }
            }
        }
        finish(place, ends, row, sums, at);
    }
}
