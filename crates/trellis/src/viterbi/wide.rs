//! Kernels for K ≥ 5: lanes run over the states that leave one register, so that its cost is the same for all lanes.
//!
//! There is nothing to do by hand: the same loop compiled for each level keeps a whole row of costs in registers.

use super::graph::Graph;
use super::metric::{Exact, Metric};
use super::search::{Kernel, Step};
use crate::{Bits, STATES, SimdLevel};

/// Costs that one pass over the branches accumulates.
const LANES: usize = 64;

/// The kernel for `bits` in 5..=8 with the instructions of `level`, which must be available.
pub(super) fn kernel(bits: Bits, level: SimdLevel) -> Kernel<Exact> {
    let step = match bits.get() {
        5 => step_at::<5>(level),
        6 => step_at::<6>(level),
        7 => step_at::<7>(level),
        _ => step_at::<8>(level),
    };
    Kernel {
        step,
        renormalize: Exact::renormalize,
        order: order(bits),
    }
}

fn step_at<const K: usize>(level: SimdLevel) -> Step<Exact> {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller has checked that the level is available.
        SimdLevel::Avx512 => |codebook, before, after, target| unsafe {
            step_avx512::<K>(codebook, before, after, target)
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => |codebook, before, after, target| unsafe {
            step_avx2::<K>(codebook, before, after, target)
        },
        _ => step::<K>,
    }
}

/// By the register `r` before without its upper `K` bits, by block of lanes, by branch `q`, by lane.
fn order(bits: Bits) -> Vec<u16> {
    let graph = Graph::new(bits);
    let lanes = LANES.min(graph.branches());
    let mut order = Vec::with_capacity(STATES);
    for block in (0..graph.registers()).step_by(lanes) {
        for q in 0..graph.branches() {
            order.extend((block..block + lanes).map(|register| graph.state(q, register) as u16));
        }
    }
    order
}

#[inline(always)]
fn step<const K: usize>(codebook: &[f32], before: &[f32], after: &mut [f32], target: f32) {
    if K == 5 {
        step_lanes::<K, 32>(codebook, before, after, target);
    } else {
        step_lanes::<K, LANES>(codebook, before, after, target);
    }
}

#[inline(always)]
fn step_lanes<const K: usize, const N: usize>(
    codebook: &[f32],
    before: &[f32],
    after: &mut [f32],
    target: f32,
) {
    let rows = STATES >> (2 * K);
    assert_eq!(before.len(), rows << K);
    let (codebook, _) = codebook.as_chunks::<N>();
    let (after, _) = after.as_chunks_mut::<N>();
    for (block, (after, codebook)) in after
        .iter_mut()
        .zip(codebook.chunks_exact(1 << K))
        .enumerate()
    {
        let row = (block * N) >> K;
        let mut best = [f32::INFINITY; N];
        for (q, weights) in codebook.iter().enumerate() {
            let before = before[q * rows + row];
            for (best, &weight) in best.iter_mut().zip(weights) {
                let cost = Exact::extend(before, weight, target);
                *best = if cost < *best { cost } else { *best };
            }
        }
        *after = best;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn step_avx512<const K: usize>(codebook: &[f32], before: &[f32], after: &mut [f32], target: f32) {
    step::<K>(codebook, before, after, target);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn step_avx2<const K: usize>(codebook: &[f32], before: &[f32], after: &mut [f32], target: f32) {
    step::<K>(codebook, before, after, target);
}
