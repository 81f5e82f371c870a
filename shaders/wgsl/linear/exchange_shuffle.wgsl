// What lane `at ^ mask` of a team of 32 has, and reductions over teams, by subgroup operations. All lanes of the workgroup must call.
//
// needs      the feature SUBGROUP and subgroups of 32 or more, so that teams do not straddle them; linear/exchange_subgroup is the
//            twin for subgroups that are teams and can wait for each other's lanes, linear/exchange_workgroup the one for all others

fn exchange(v: vec4<f32>, at: u32, mask: u32) -> vec4<f32> {
    return subgroupShuffleXor(v, mask);
}

fn team_sum(v: u32, at: u32) -> u32 {
    var sum = v;
    for (var mask = 1u; mask < 32u; mask = mask << 1u) {
        sum += subgroupShuffleXor(sum, mask);
    }
    return sum;
}

fn team_max(v: u32, at: u32) -> u32 {
    var largest = v;
    for (var mask = 1u; mask < 32u; mask = mask << 1u) {
        largest = max(largest, subgroupShuffleXor(largest, mask));
    }
    return largest;
}

fn await_readers() {
    workgroupBarrier();
}
