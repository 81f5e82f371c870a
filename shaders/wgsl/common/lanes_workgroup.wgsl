// What reductions in workgroup memory must know of a lane.

// The entry point takes `l: Lanes` and hands it on.
struct Lanes {
    @builtin(local_invocation_index) lane: u32,
}
