// What lane `at ^ mask` of a team of 32 has, and reductions over teams, through workgroup memory: the twin of
// linear/exchange_subgroup and linear/exchange_shuffle for adapters without subgroups of 32. All lanes of the workgroup must call.
//
// constants  LANES: workgroup size

var<workgroup> exchanged: array<vec4<f32>, {{LANES}}>;

fn exchange(v: vec4<f32>, at: u32, mask: u32) -> vec4<f32> {
    exchanged[at] = v;
    workgroupBarrier();
    let other = exchanged[at ^ mask];
    workgroupBarrier();
    return other;
}

var<workgroup> numbers: array<u32, {{LANES}}>;

fn exchange_number(v: u32, at: u32, mask: u32) -> u32 {
    numbers[at] = v;
    workgroupBarrier();
    let other = numbers[at ^ mask];
    workgroupBarrier();
    return other;
}

fn team_sum(v: u32, at: u32) -> u32 {
    var sum = v;
    for (var mask = 1u; mask < 32u; mask = mask << 1u) {
        sum += exchange_number(sum, at, mask);
    }
    return sum;
}

fn team_max(v: u32, at: u32) -> u32 {
    var largest = v;
    for (var mask = 1u; mask < 32u; mask = mask << 1u) {
        largest = max(largest, exchange_number(largest, at, mask));
    }
    return largest;
}

fn await_readers() {
    workgroupBarrier();
}
