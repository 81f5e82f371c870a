//! The search as GPUs do it up to four bits, in whole numbers, so that they find the same walks to the last state.

use super::effort::Effort;
use super::metric::Metric;
use super::reference;
use crate::{Bits, Codebook, TILE_WEIGHTS};

/// Whole numbers for weights and targets: the largest weight is 1024, which half precision holds exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Units in one of the codebook's.
    pub scale: f32,
    /// The least weight: targets below are clipped to it.
    pub lowest: f32,
    /// The largest weight.
    pub highest: f32,
}

impl Grid {
    /// That of a codebook.
    pub fn new(codebook: Codebook) -> Self {
        let weights = codebook.table();
        let lowest = weights.iter().copied().fold(f32::INFINITY, f32::min);
        let highest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        Self {
            scale: 1024.0 / highest.max(-lowest),
            lowest,
            highest,
        }
    }

    /// A weight or target in units, the even one where two are equally near.
    pub fn place(&self, value: f32) -> f32 {
        (value.clamp(self.lowest, self.highest) * self.scale).round_ties_even()
    }
}

/// What a GPU's kernel finds. Costs are squares of units, exact in f32; those that it might no longer be exact to extend are hopeless.
struct Whole(Grid);

impl Metric for Whole {
    type Value = i32;
    type Cost = u32;
    const FREE: u32 = 0;
    // With the largest square, that of twice the largest weight, 2²⁴.
    const UNREACHABLE: u32 = 3 << 22;
    const RENORMALIZE: Option<usize> = Some(16);

    fn new(_: Bits, codebook: Codebook) -> Self {
        Self(Grid::new(codebook))
    }

    fn value(&self, value: f32) -> i32 {
        self.0.place(value) as i32
    }

    fn extend(cost: u32, weight: i32, target: i32) -> u32 {
        let d = target.abs_diff(weight);
        (cost + d * d).min(Self::UNREACHABLE)
    }

    fn renormalize(costs: &mut [u32]) {
        let smallest = costs.iter().copied().min().unwrap_or(0);
        costs.iter_mut().for_each(|cost| *cost -= smallest);
    }
}

/// The walk that a GPU finds for `targets` in whole numbers, at most four bits per weight; `None` above, where it computes in f32 as
/// [`encode_tile_reference`](super::encode_tile_reference) does. Takes about a second.
pub fn encode_tile_whole(
    targets: &[f32; TILE_WEIGHTS],
    bits: Bits,
    codebook: Codebook,
    effort: Effort,
) -> Option<[u16; TILE_WEIGHTS]> {
    (bits.get() <= 4).then(|| reference::encode::<Whole>(targets, bits, codebook, effort.window()))
}
