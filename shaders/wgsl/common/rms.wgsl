// The factor of an RMS norm (arXiv 1910.07467), for kernels that norm what they read: from each lane's share of the sum of
// squares. All lanes must call.
//
// constants  WG: workgroup size, a power of two; REDUCE: subgroup | workgroup

//!use common/reduce_{{REDUCE}}

fn inverse_rms(squares: f32, width: u32, epsilon: f32, l: Lanes) -> f32 {
    return inverse_rms_of(workgroup_sum(squares, l), width, epsilon);
}

// The factor from the whole sum.
fn inverse_rms_of(squares: f32, width: u32, epsilon: f32) -> f32 {
    return 1.0 / sqrt(squares / f32(width) + epsilon);
}
