//! The kernel in plain Rust.

use super::{LANES, check};
use crate::STATES;
use crate::viterbi::metric::{Fixed, Metric};

pub(super) fn step<const K: usize>(
    codebook: &[i16],
    before: &[u16],
    after: &mut [u16],
    target: i16,
) {
    check(K, codebook, before, after);
    let branches = 1 << K;
    let (weights, _) = codebook.as_chunks::<LANES>();
    for (block, after) in after.chunks_exact_mut(LANES << K).enumerate() {
        let weights = &weights[block << (2 * K)..][..1 << (2 * K)];
        for (b, weights) in weights.chunks_exact(branches).enumerate() {
            let mut best = [u16::MAX; LANES];
            for (q, weights) in weights.iter().enumerate() {
                let before = &before[q * (STATES >> (2 * K)) + block * LANES..][..LANES];
                for lane in 0..LANES {
                    best[lane] = best[lane].min(Fixed::extend(before[lane], weights[lane], target));
                }
            }
            for (r, best) in best.into_iter().enumerate() {
                after[r << K | b] = best;
            }
        }
    }
}

#[inline(always)]
pub(super) fn renormalize(costs: &mut [u16]) {
    Fixed::renormalize(costs);
}
