// The first of all lanes' tokens in the order of sampling: the highest key, the lowest id of equals. Every lane gets it; all
// must call.
//
// constants  WG: workgroup size, a power of two

var<workgroup> firsts: array<vec2<u32>, {{WG}}>;

// Whether `a` comes before `b`; tokens are (key, id).
fn is_ahead(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

fn workgroup_first(token: vec2<u32>, lane: u32) -> vec2<u32> {
    workgroupBarrier();
    firsts[lane] = token;
    workgroupBarrier();
    for (var half = {{WG}}u / 2u; half > 0u; half /= 2u) {
        if lane < half && is_ahead(firsts[lane + half], firsts[lane]) {
            firsts[lane] = firsts[lane + half];
        }
        workgroupBarrier();
    }
    return firsts[0];
}
