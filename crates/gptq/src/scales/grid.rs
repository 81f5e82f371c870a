//! What weights become, as the search for scales sees it.

use crate::{IntBits, e2m1, int};

/// Values and where their zero lies, in units of the scale.
pub(super) trait Grid: Sync {
    /// Zeros worth trying with a scale.
    const ZEROS: usize;

    /// The scale at which a group from `low` to `high`, 0 among them, is clipped by half a step at most.
    fn ideal(&self, low: f32, high: f32) -> f32;

    /// The code of zero of a group from `low` to `high`; choice 0 is that of [`Grid::ideal`] scales.
    fn zero(&self, low: f32, high: f32, scale: f32, choice: usize) -> f32;

    /// The least and the greatest value there are.
    fn range(&self, zero: f32) -> [f32; 2];

    /// The value nearest to `x` in a range.
    fn round(x: f32, low: f32, high: f32) -> f32;
}

/// E2M1.
pub(super) struct Floats;

impl Grid for Floats {
    const ZEROS: usize = 1;

    fn ideal(&self, low: f32, high: f32) -> f32 {
        high.max(-low) / e2m1::MAX
    }

    #[inline(always)]
    fn zero(&self, _: f32, _: f32, _: f32, _: usize) -> f32 {
        0.0
    }

    #[inline(always)]
    fn range(&self, _: f32) -> [f32; 2] {
        [-e2m1::MAX, e2m1::MAX]
    }

    #[inline(always)]
    fn round(x: f32, _: f32, _: f32) -> f32 {
        e2m1::round(x)
    }
}

/// Integers around the middle code.
pub(super) struct Symmetric(pub(super) IntBits);

impl Grid for Symmetric {
    const ZEROS: usize = 1;

    fn ideal(&self, low: f32, high: f32) -> f32 {
        2.0 * high.max(-low) / (self.0.levels() - 1) as f32
    }

    #[inline(always)]
    fn zero(&self, _: f32, _: f32, _: f32, _: usize) -> f32 {
        f32::from(self.0.middle())
    }

    #[inline(always)]
    fn range(&self, zero: f32) -> [f32; 2] {
        [-zero, (self.0.levels() - 1) as f32 - zero]
    }

    #[inline(always)]
    fn round(x: f32, low: f32, high: f32) -> f32 {
        int::round(x, low, high)
    }
}

/// Integers with a zero for each group.
pub(super) struct Asymmetric(pub(super) IntBits);

impl Grid for Asymmetric {
    const ZEROS: usize = 2;

    fn ideal(&self, low: f32, high: f32) -> f32 {
        (high - low) / (self.0.levels() - 1) as f32
    }

    #[inline(always)]
    fn zero(&self, low: f32, high: f32, scale: f32, choice: usize) -> f32 {
        let most = (self.0.levels() - 1) as f32;
        let zero = match choice {
            // The lowest weight is the lowest code.
            0 => -low / scale,
            // Both ends are clipped alike.
            _ => (most - (low + high) / scale) / 2.0,
        };
        int::round(zero, 0.0, most)
    }

    #[inline(always)]
    fn range(&self, zero: f32) -> [f32; 2] {
        [-zero, (self.0.levels() - 1) as f32 - zero]
    }

    #[inline(always)]
    fn round(x: f32, low: f32, high: f32) -> f32 {
        int::round(x, low, high)
    }
}
