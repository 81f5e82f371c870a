// Four sums or maxima at once over the workgroup, by subgroups. Contract and constants of common/reduce_subgroup, whose
// `Lanes` it shares.

//!use common/lanes_subgroup

// One slot per subgroup, which has four lanes at the least.
var<workgroup> reduced4: array<vec4<f32>, {{WG}} / 4>;

fn workgroup_sum4(x: vec4<f32>, l: Lanes) -> vec4<f32> {
    let part = subgroupAdd(x);
    workgroupBarrier();
    if l.sublane == 0u {
        reduced4[l.subgroup] = part;
    }
    workgroupBarrier();
    var total = vec4(0.0);
    for (var i = 0u; i < l.subgroups; i += 1u) {
        total += reduced4[i];
    }
    return total;
}

fn workgroup_max4(x: vec4<f32>, l: Lanes) -> vec4<f32> {
    let part = subgroupMax(x);
    workgroupBarrier();
    if l.sublane == 0u {
        reduced4[l.subgroup] = part;
    }
    workgroupBarrier();
    var largest = reduced4[0];
    for (var i = 1u; i < l.subgroups; i += 1u) {
        largest = max(largest, reduced4[i]);
    }
    return largest;
}
