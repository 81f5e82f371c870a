// What lane `at ^ mask` of a team of 32 has, and reductions over teams, by subgroup operations. All lanes of the workgroup must call.
//
// needs      the features SUBGROUP and SUBGROUP_BARRIER and subgroups of 32: a team each; linear/exchange_shuffle is the twin for
//            larger subgroups, linear/exchange_workgroup the one for all others

fn exchange(v: vec4<f32>, at: u32, mask: u32) -> vec4<f32> {
    return subgroupShuffleXor(v, mask);
}

fn team_sum(v: u32, at: u32) -> u32 {
    return subgroupAdd(v);
}

fn team_max(v: u32, at: u32) -> u32 {
    return subgroupMax(v);
}

// Waits until all of the team have read what they were to read of workgroup memory.
fn await_readers() {
    subgroupBarrier();
}
