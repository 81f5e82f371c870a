// What reductions by subgroups must know of a lane. Needs the feature SUBGROUP.

// The entry point takes `l: Lanes` and hands it on.
struct Lanes {
    @builtin(local_invocation_index) lane: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) sublane: u32,
}
