// Which blocks a workgroup of linear/trellis_few has: a range of all blocks of all units of work, one after the other, all of the same
// length, so that workgroups have as much to do whatever the number of units. A range is at most as long as a unit, and so has parts
// of one or two.
//
// grid       x, y: ranges

// Units that a workgroup has parts of.
const SIDES = 2u;

// n / d, where `one_over` is a little less than 1 / d: of numbers below 2^24.
fn quotient(n: u32, d: u32, one_over: f32) -> u32 {
    let q = u32(f32(n) * one_over);
    return select(q, q + 1u, n - q * d >= d);
}

// Gives false to a workgroup without work.
fn find_span(group: vec3<u32>, groups: vec3<u32>, span: ptr<function, Span>) -> bool {
    let range = group.y * groups.x + group.x;
    let first = range * p.per_split;
    if first >= p.all {
        return false;
    }
    let unit = quotient(first, p.blocks, p.one_over.x);
    let rows = quotient(unit, p.ends.w, p.one_over.y);
    let column = unit - rows * p.ends.w;
    (*span).range = range;
    (*span).unit = unit;
    (*span).start = first - unit * p.blocks;
    (*span).count = min(p.per_split, p.all - first);
    (*span).edge = min(p.blocks - (*span).start, (*span).count);
    var one: Place;
    aim(column, rows, p.ends.w, &one);
    (*span).one = one;
    (*span).one_header = header_at(one.header);
    if (*span).edge < (*span).count {
        let wraps = column + 1u == p.ends.w;
        var next: Place;
        aim(select(column + 1u, 0u, wraps), rows + u32(wraps), p.ends.w, &next);
        (*span).next = next;
        (*span).next_header = header_at(next.header);
    }
    return true;
}

// The unit whose sums a team ends.
fn place_of(span: Span, team: u32) -> Place {
    let is_next = team % 2u == 1u;
    var place = either(span, is_next);
    let begin = (span.unit + u32(is_next)) * p.blocks;
    let before = quotient(begin, p.per_split, p.one_over.z);
    place.split = span.range - before;
    place.splits = quotient(begin + p.blocks - 1u, p.per_split, p.one_over.z) + 1u - before;
    if is_next && span.edge == span.count {
        place.splits = 0u;
    }
    return place;
}

fn either(span: Span, is_next: bool) -> Place {
    var place = span.one;
    if is_next {
        place = span.next;
    }
    return place;
}

fn job_in(span: Span, row: u32, block: u32, lane: u32) -> Job {
    let is_next = block >= span.edge;
    let first = select(span.start, 0u - span.edge, is_next);
    let suh = select(span.one_header.suh, span.next_header.suh, is_next);
    return job_of(either(span, is_next), suh, row, first + block, block < span.count, lane);
}
