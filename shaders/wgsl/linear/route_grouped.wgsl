// Rows are sorted by expert: those of expert `e` are from `picks[e]` to before `picks[e + 1]`. Groups of rows do not straddle
// experts; `ceil(rows / ROWS) + experts` of them are always enough.

fn route(group: u32, place: ptr<function, Place>) -> bool {
    var before = 0u;
    var first = picks[0];
    // Eight experts at a time, asked for together, up to those that the group is among.
    var near = 0u;
    for (; near < p.experts; near += 8u) {
        let e = vec4<u32>(near + 1u, near + 2u, near + 3u, near + 4u);
        let low = min(e, vec4<u32>(p.experts));
        let high = min(e + 4u, vec4<u32>(p.experts));
        let a = vec4<u32>(picks[low.x], picks[low.y], picks[low.z], picks[low.w]);
        let b = vec4<u32>(picks[high.x], picks[high.y], picks[high.z], picks[high.w]);
        let groups = (a - vec4<u32>(first, a.xyz) + ROWS - 1u) / ROWS
            + (b - vec4<u32>(a.w, b.xyz) + ROWS - 1u) / ROWS;
        let all = groups.x + groups.y + groups.z + groups.w;
        if group < before + all {
            break;
        }
        before += all;
        first = b.w;
    }
    for (var e = near; e < p.experts; e += 1u) {
        let end = picks[e + 1u];
        let groups = (end - first + ROWS - 1u) / ROWS;
        if group < before + groups {
            (*place).row = first + (group - before) * ROWS;
            (*place).x_row = (*place).row;
            (*place).end = end;
            (*place).expert = e;
            (*place).header += 8u * e;
            return true;
        }
        before += groups;
        first = end;
    }
    return false;
}
