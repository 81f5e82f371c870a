// Sums and maxima over the workgroup, by subgroups. Every lane gets the result; the order of the sum depends on the
// subgroup size and on nothing else. All lanes must call; a second reduction may follow at once.
//
// needs      the feature SUBGROUP; common/reduce_workgroup is the twin without it
// constants  WG: workgroup size, a power of two

//!use common/lanes_subgroup

// One slot per subgroup, which has four lanes at the least.
var<workgroup> reduced: array<f32, {{WG}} / 4>;

fn workgroup_sum(x: f32, l: Lanes) -> f32 {
    let part = subgroupAdd(x);
    // Whoever still reads the last result must be done.
    workgroupBarrier();
    if l.sublane == 0u {
        reduced[l.subgroup] = part;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < l.subgroups; i += 1u) {
        total += reduced[i];
    }
    return total;
}

fn workgroup_max(x: f32, l: Lanes) -> f32 {
    let part = subgroupMax(x);
    workgroupBarrier();
    if l.sublane == 0u {
        reduced[l.subgroup] = part;
    }
    workgroupBarrier();
    var largest = reduced[0];
    for (var i = 1u; i < l.subgroups; i += 1u) {
        largest = max(largest, reduced[i]);
    }
    return largest;
}
