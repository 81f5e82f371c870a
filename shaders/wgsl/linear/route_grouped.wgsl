// Rows are sorted by expert: those of expert `e` are from `picks[e]` to before `picks[e + 1]`. Groups of rows do not straddle
// experts; `ceil(rows / ROWS) + experts` of them are always enough.

fn route(group: u32, place: ptr<function, Place>) -> bool {
    var before = 0u;
    var first = picks[0];
    for (var e = 0u; e < p.experts; e += 1u) {
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
