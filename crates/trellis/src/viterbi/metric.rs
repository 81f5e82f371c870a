use bytemuck::Pod;

use crate::{Bits, Codebook};

/// In what numbers weights, targets and path costs are held.
pub(super) trait Metric: Send + Sync + 'static {
    /// A weight of the codebook, or a target.
    type Value: Pod + Send + Sync;
    /// The squared error summed along a path.
    type Cost: Pod + PartialOrd + Send + Sync;
    /// The cost of a path not begun.
    const FREE: Self::Cost;
    /// The cost of a path that does not exist: no other is larger, and extending it leaves it as it is.
    const UNREACHABLE: Self::Cost;
    /// After how many steps the smallest cost is subtracted from all, if ever.
    const RENORMALIZE: Option<usize>;

    fn new(bits: Bits, codebook: Codebook) -> Self;

    /// A target or weight in units of the codebook.
    fn value(&self, value: f32) -> Self::Value;

    /// The cost of a path extended by a state of weight `weight` where `target` is wanted.
    fn extend(cost: Self::Cost, weight: Self::Value, target: Self::Value) -> Self::Cost;

    /// Subtracts the smallest cost from all.
    fn renormalize(costs: &mut [Self::Cost]);
}

/// Plain f32.
pub(super) struct Exact;

impl Metric for Exact {
    type Value = f32;
    type Cost = f32;
    const FREE: f32 = 0.0;
    const UNREACHABLE: f32 = f32::INFINITY;
    const RENORMALIZE: Option<usize> = None;

    fn new(_: Bits, _: Codebook) -> Self {
        Self
    }

    fn value(&self, value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn extend(cost: f32, weight: f32, target: f32) -> f32 {
        let d = target - weight;
        // Not fused: a fused sum would differ between machines.
        cost + d * d
    }

    fn renormalize(_: &mut [f32]) {}
}

/// 16-bit fixed point, twice as many lanes to a vector as [`Exact`]. Targets are clipped to the codebook's range.
///
/// A difference `d` costs `round(d² / 2¹⁵)`, and sums saturate. The cost of a whole tile stays within the 16 bits by
/// subtracting the smallest cost now and then; what saturates is hopeless beside it.
pub(super) struct Fixed {
    scale: f32,
    lowest: f32,
    highest: f32,
}

impl Fixed {
    /// Largest difference that the 16 bits hold, relative to the largest weight. Up to two bits, twice the weight: no
    /// difference overflows. From three bits on finer costs matter more, and a difference that overflows wraps to at
    /// least 0.44 of the largest weight, far above what a best path ever takes.
    fn range(bits: Bits) -> f32 {
        if bits.get() <= 1 { 2.0 } else { 1.22 }
    }
}

impl Metric for Fixed {
    type Value = i16;
    type Cost = u16;
    const FREE: u16 = 0;
    const UNREACHABLE: u16 = u16::MAX;
    // By then every register has been reached, so that no cost is the one of an unreachable path.
    const RENORMALIZE: Option<usize> = Some(16);

    fn new(bits: Bits, codebook: Codebook) -> Self {
        let weights = codebook.table();
        let lowest = weights.iter().copied().fold(f32::INFINITY, f32::min);
        let highest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let largest = highest.max(-lowest);
        Self {
            scale: f32::from(i16::MAX) / (Self::range(bits) * largest),
            lowest,
            highest,
        }
    }

    fn value(&self, value: f32) -> i16 {
        (value.clamp(self.lowest, self.highest) * self.scale).round() as i16
    }

    #[inline(always)]
    fn extend(cost: u16, weight: i16, target: i16) -> u16 {
        let d = i32::from(target.wrapping_sub(weight));
        cost.saturating_add(((d * d + (1 << 14)) >> 15) as u16)
    }

    #[inline(always)]
    fn renormalize(costs: &mut [u16]) {
        let smallest = costs.iter().fold(u16::MAX, |least, &cost| least.min(cost));
        for cost in costs {
            // No cost is smaller; saying so keeps the loop free of checks.
            *cost = cost.wrapping_sub(smallest);
        }
    }
}
