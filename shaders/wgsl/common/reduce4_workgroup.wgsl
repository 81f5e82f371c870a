// Four sums or maxima at once over the workgroup, in its memory: the twin of common/reduce4_subgroup.
//
// constants  WG: workgroup size, a power of two

//!use common/lanes_workgroup

var<workgroup> reduced4: array<vec4<f32>, {{WG}}>;

fn workgroup_sum4(x: vec4<f32>, l: Lanes) -> vec4<f32> {
    workgroupBarrier();
    reduced4[l.lane] = x;
    workgroupBarrier();
    for (var half = {{WG}}u / 2u; half > 0u; half /= 2u) {
        if l.lane < half {
            reduced4[l.lane] += reduced4[l.lane + half];
        }
        workgroupBarrier();
    }
    return reduced4[0];
}

fn workgroup_max4(x: vec4<f32>, l: Lanes) -> vec4<f32> {
    workgroupBarrier();
    reduced4[l.lane] = x;
    workgroupBarrier();
    for (var half = {{WG}}u / 2u; half > 0u; half /= 2u) {
        if l.lane < half {
            reduced4[l.lane] = max(reduced4[l.lane], reduced4[l.lane + half]);
        }
        workgroupBarrier();
    }
    return reduced4[0];
}
