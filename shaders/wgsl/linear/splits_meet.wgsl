// Ends a row whose inputs are cut among workgroups: their sums meet two by two.
//
// Each sum is exchanged for what is at a place of its two workgroups. Who finds nothing there has left its own and is done; who finds
// the other's adds it, leaves nothing behind, and goes on to the next round, until one is left, who has all. Who meets whom is fixed,
// and it does not matter who is first: the result is always the same. Nobody waits, and each round is one trip to memory.
//
// binding    meetings: atomic u32, `[units, splits - 1, ROWS, 4, 32]`, zeros before and after

//!use linear/finish_rotated

// A sum as it lies in `meetings`, where 0 is nothing.
fn left(sum: f32) -> u32 {
    let bits = bitcast<u32>(sum);
    // All ones are not a number anyway, and would lie there as nothing: another that is none stands for them.
    return ~select(bits, 0x7FC00000u, bits == 0xFFFFFFFFu);
}

fn found(number: vec4<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(~number);
}

// Leaves four sums at every 32nd place from `to` on, or adds what is there to them: then they stay `there`.
fn meet(to: u32, sums: vec4<f32>, there: ptr<function, vec4<bool>>) -> vec4<f32> {
    var other = vec4<u32>();
    if (*there).x {
        other.x = atomicExchange(&meetings[to], left(sums.x));
    }
    if (*there).y {
        other.y = atomicExchange(&meetings[to + 32u], left(sums.y));
    }
    if (*there).z {
        other.z = atomicExchange(&meetings[to + 64u], left(sums.z));
    }
    if (*there).w {
        other.w = atomicExchange(&meetings[to + 96u], left(sums.w));
    }
    *there = other != vec4<u32>();
    if (*there).x {
        atomicStore(&meetings[to], 0u);
    }
    if (*there).y {
        atomicStore(&meetings[to + 32u], 0u);
    }
    if (*there).z {
        atomicStore(&meetings[to + 64u], 0u);
    }
    if (*there).w {
        atomicStore(&meetings[to + 96u], 0u);
    }
    // Of sums that are no longer there it does not matter what this is.
    return sums + found(other);
}

// Row `row` of those of the workgroup, or ROWS for none; `rotated` are its sums. All lanes must call.
fn conclude(place: Place, ends: Ends, row: u32, rotated: vec4<f32>, at: u32) {
    // What is rotated back still adds up, and each lane can go its own way.
    var sums = rotate(rotated, at);
    var there = vec4<bool>(row < ROWS && place.row + row < place.end);
    var number = place.split;
    var count = place.splits;
    var pair = place.unit * (p.splits - 1u);
    while count > 1u && any(there) {
        // The last of an odd number has nobody to meet.
        if (number ^ 1u) < count {
            let to = 128u * ((pair + number / 2u) * ROWS + row) + (at & 31u);
            sums = meet(to, sums, &there);
        }
        pair += count / 2u;
        number = number / 2u;
        count = (count + 1u) / 2u;
    }
    finish_some(place, ends, row, sums, there, at);
}

// Rows that are concluded are done.
fn settle(place: Place, ends: Ends, at: u32) {
}
