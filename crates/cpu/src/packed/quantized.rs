use treillage_trellis::{MUL1_OFFSET, MUL1_SCALE};

use super::BLOCK;

/// One Hadamard block of activations, as `step · values`.
pub(super) struct Quantized {
    pub(super) values: [i8; BLOCK],
    step: f32,
}

impl Quantized {
    /// To nearest, with the largest magnitude at 127. A block that is not finite gets a step that is not either, so that
    /// its outputs show it.
    #[inline(always)]
    pub(super) fn new(block: &[f32; BLOCK]) -> Self {
        // Magnitudes order as their bits do; what is not finite comes last.
        let largest = block
            .iter()
            .fold(0, |largest, x| x.abs().to_bits().max(largest));
        let largest = f32::from_bits(largest);
        let step = largest / 127.0;
        let scale = if largest == 0.0 { 0.0 } else { 127.0 / largest };
        // Adding 1.5 · 2²³ leaves the nearest integer in the low bits of the significand.
        let values = block.map(|x| (x * scale + 12_582_912.0).to_bits() as i8);
        Self { values, step }
    }

    /// What sums of products, `Σ value · byte sum`, are multiplied with.
    #[inline(always)]
    pub(super) fn scale(&self) -> f32 {
        MUL1_SCALE * self.step
    }

    /// What the codebook's offset adds to every output.
    #[inline(always)]
    pub(super) fn offset(&self) -> f32 {
        let sum: i32 = self.values.iter().map(|&v| i32::from(v)).sum();
        (1024.0 * MUL1_SCALE + MUL1_OFFSET) * self.step * sum as f32
    }
}
