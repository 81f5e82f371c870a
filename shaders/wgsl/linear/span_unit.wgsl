// Which blocks a workgroup of linear/trellis_few has: a part of a unit of work.
//
// grid       x: column blocks of all linears; y: splits; z: groups of rows

// Units that a workgroup has a part of.
const SIDES = 1u;

// Gives false to a workgroup without work.
fn find_span(group: vec3<u32>, groups: vec3<u32>, span: ptr<function, Span>) -> bool {
    var one: Place;
    let there = aim_at(group, groups, &one);
    (*span).one = one;
    (*span).one_header = header_at(one.header);
    (*span).start = group.y * p.per_split;
    (*span).count = min(p.per_split, p.blocks - (*span).start);
    (*span).edge = (*span).count;
    return there && is_ours((*span).one_header.kind);
}

// The unit whose sums a team ends.
fn place_of(span: Span, team: u32) -> Place {
    return span.one;
}

fn job_in(span: Span, row: u32, block: u32, lane: u32) -> Job {
    return job_of(span.one, span.one_header.suh, row, span.start + block, block < span.count, lane);
}
