//! Kernels for K ≤ 4: lanes run over registers that share their upper `K` bits.
//!
//! Let `r` be a register without its upper `K` bits `q`. From `q, r` the state with new bits `b` leads to register
//! `r << K | b`, for every `q`. So for a block of 32 successive `r` the costs before the step are loaded once for each `q`
//! and serve all `b`; for each `b` the least over `q` is a plain minimum of vectors. What comes out is one vector per `b`
//! with lanes over `r`, where register order has `b` innermost: a transposition per block, small beside the `4^K`
//! vectors of states before it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::graph::Graph;
use super::metric::Fixed;
use super::search::{Kernel, Step};
use crate::{Bits, STATES, SimdLevel};

/// The most bits that these kernels take: with more, fewer than 32 registers share their upper bits, and costs are too
/// small for 16 bits.
pub(super) const MAX_BITS: usize = 4;

/// Registers of a block.
const LANES: usize = 32;

/// The kernel for `bits` up to [`MAX_BITS`] with the instructions of `level`, which must be available.
pub(super) fn kernel(bits: Bits, level: SimdLevel) -> Kernel<Fixed> {
    let step = match bits.get() {
        1 => step_at::<1>(level),
        2 => step_at::<2>(level),
        3 => step_at::<3>(level),
        _ => step_at::<4>(level),
    };
    Kernel {
        step,
        renormalize: renormalize_at(level),
        order: order(bits),
    }
}

fn step_at<const K: usize>(level: SimdLevel) -> Step<Fixed> {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller has checked that the level is available.
        SimdLevel::Avx512 => |codebook, before, after, target| unsafe {
            avx512::step::<K>(codebook, before, after, target)
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => |codebook, before, after, target| unsafe {
            avx2::step::<K>(codebook, before, after, target)
        },
        _ => portable::step::<K>,
    }
}

fn renormalize_at(level: SimdLevel) -> fn(&mut [u16]) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller has checked that the level is available.
        SimdLevel::Avx512 => |costs| unsafe { avx512::renormalize(costs) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        SimdLevel::Avx2 => |costs| unsafe { avx2::renormalize(costs) },
        _ => portable::renormalize,
    }
}

/// By block of `r`, by new bits `b`, by branch `q`, by lane.
fn order(bits: Bits) -> Vec<u16> {
    let graph = Graph::new(bits);
    let mut order = Vec::with_capacity(STATES);
    for block in (0..graph.registers() >> graph.bits()).step_by(LANES) {
        for b in 0..graph.branches() {
            for q in 0..graph.branches() {
                let register = |r: usize| r << graph.bits() | b;
                order.extend((block..block + LANES).map(|r| graph.state(q, register(r)) as u16));
            }
        }
    }
    order
}

/// Checks the lengths that the kernels rely on.
fn check(k: usize, codebook: &[i16], before: &[u16], after: &[u16]) {
    assert_eq!(codebook.len(), STATES);
    assert_eq!(before.len(), STATES >> k);
    assert_eq!(after.len(), STATES >> k);
}
