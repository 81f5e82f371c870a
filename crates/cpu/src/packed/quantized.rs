use treillage_trellis::{MUL1_OFFSET, MUL1_SCALE};

use super::BLOCK;

/// One Hadamard block of activations, as `step · values`.
pub(super) struct Quantized {
    pub(super) values: [i8; BLOCK],
    step: f32,
}

impl Quantized {
    /// To nearest, with the largest magnitude at 127. A block that is not finite gets a step that is not, so that it is
    /// not lost.
    pub(super) fn new(block: &[f32; BLOCK]) -> Self {
        let largest = block.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        let finite = block.iter().all(|x| x.is_finite());
        if !finite || largest == 0.0 {
            let step = if finite { 0.0 } else { f32::NAN };
            return Self {
                values: [0; BLOCK],
                step,
            };
        }
        let scale = 127.0 / largest;
        // Adding 1.5 · 2²³ leaves the nearest integer in the low bits of the significand.
        let values = block.map(|x| (x * scale + 12_582_912.0).to_bits() as i8);
        Self {
            values,
            step: largest / 127.0,
        }
    }

    /// Factor of the products' sums `Σ value · byte sum`.
    pub(super) fn scale(&self) -> f32 {
        MUL1_SCALE * self.step
    }

    /// What the codebook's offset adds to every output.
    pub(super) fn offset(&self) -> f32 {
        let sum: i32 = self.values.iter().map(|&v| i32::from(v)).sum();
        (1024.0 * MUL1_SCALE + MUL1_OFFSET) * self.step * sum as f32
    }
}
