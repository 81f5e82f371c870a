// Sorts choices by expert, those of one expert in the order they had: where each expert's rows start, which choice each
// sorted row is, and which sorted row each choice became. Counting sort, one workgroup an expert: no atomics, so that the
// order depends on nothing but the input.
//
// bindings   0 chosen: u32 [count], the expert of each choice, below the number of experts; 1 offsets: u32 [experts + 1];
//            2 sources: u32 [count]; 3 places: u32 [count]
// grid       x: experts
// constants  WG: workgroup size, a power of two

struct Params {
    count: u32,
    experts: u32,
}

@group(0) @binding(0) var<storage, read> chosen: array<u32>;
@group(0) @binding(1) var<storage, read_write> offsets: array<u32>;
@group(0) @binding(2) var<storage, read_write> sources: array<u32>;
@group(0) @binding(3) var<storage, read_write> places: array<u32>;
var<immediate> p: Params;

// For each lane's run of choices, and then for it and all runs before: those of lower experts, and of this one.
var<workgroup> below: array<u32, {{WG}}>;
var<workgroup> equal: array<u32, {{WG}}>;

@compute @workgroup_size({{WG}})
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let expert = group.x;
    let run = (p.count + {{WG}}u - 1u) / {{WG}}u;
    let start = min(lane * run, p.count);
    let end = min(start + run, p.count);
    var lower = 0u;
    var own = 0u;
    for (var i = start; i < end; i += 1u) {
        let e = chosen[i];
        lower += select(0u, 1u, e < expert);
        own += select(0u, 1u, e == expert);
    }
    below[lane] = lower;
    equal[lane] = own;
    workgroupBarrier();
    for (var step = 1u; step < {{WG}}u; step *= 2u) {
        var more_below = 0u;
        var more_equal = 0u;
        if lane >= step {
            more_below = below[lane - step];
            more_equal = equal[lane - step];
        }
        workgroupBarrier();
        below[lane] += more_below;
        equal[lane] += more_equal;
        workgroupBarrier();
    }
    let first = below[{{WG}}u - 1u];
    if lane == 0u {
        offsets[expert] = first;
        if expert == p.experts - 1u {
            offsets[p.experts] = first + equal[{{WG}}u - 1u];
        }
    }
    var row = first + equal[lane] - own;
    for (var i = start; i < end; i += 1u) {
        if chosen[i] == expert {
            sources[row] = i;
            places[i] = row;
            row += 1u;
        }
    }
}
