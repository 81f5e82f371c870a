// Notes a row in which something is not finite, in the record of its block: four words of `flags`, which are 1 if such a row was
// seen; its number; how many of its values are not finite; the bits of the largest magnitude of the others. Of several rows one
// is noted. All lanes must call, and only where the row is bad: it is read once more.
//
// The user has `flag`, the first word of the record, among its scalars, declares `flags`, and names `guarded` (row, i), value `i`
// of a row.
//
// constants  WG: workgroup size, a power of two; REDUCE: subgroup | workgroup

//!use common/order
//!use common/reduce_{{REDUCE}}

fn guard(row: u32, width: u32, l: Lanes) {
    var bad = 0.0;
    var largest = 0.0;
    for (var i = l.lane; i < width; i += {{WG}}u) {
        let value = guarded(row, i);
        if (bitcast<u32>(value) & 0x7fffffffu) < NOT_FINITE_EXPONENT {
            largest = max(largest, abs(value));
        } else {
            bad += 1.0;
        }
    }
    bad = workgroup_sum(bad, l);
    largest = workgroup_max(largest, l);
    if l.lane == 0u && atomicExchange(&flags[p.flag], 1u) == 0u {
        atomicStore(&flags[p.flag + 1u], row);
        atomicStore(&flags[p.flag + 2u], u32(bad));
        atomicStore(&flags[p.flag + 3u], bitcast<u32>(largest));
    }
}
