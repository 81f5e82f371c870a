// Sums and maxima over the workgroup, in its memory: the twin of common/reduce_subgroup for adapters without SUBGROUP.
//
// constants  WG: workgroup size, a power of two

//!use common/lanes_workgroup

var<workgroup> reduced: array<f32, {{WG}}>;

fn workgroup_sum(x: f32, l: Lanes) -> f32 {
    workgroupBarrier();
    reduced[l.lane] = x;
    workgroupBarrier();
    for (var half = {{WG}}u / 2u; half > 0u; half /= 2u) {
        if l.lane < half {
            reduced[l.lane] += reduced[l.lane + half];
        }
        workgroupBarrier();
    }
    return reduced[0];
}

fn workgroup_max(x: f32, l: Lanes) -> f32 {
    workgroupBarrier();
    reduced[l.lane] = x;
    workgroupBarrier();
    for (var half = {{WG}}u / 2u; half > 0u; half /= 2u) {
        if l.lane < half {
            reduced[l.lane] = max(reduced[l.lane], reduced[l.lane + half]);
        }
        workgroupBarrier();
    }
    return reduced[0];
}
