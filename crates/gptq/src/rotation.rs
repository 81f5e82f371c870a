use nalgebra::DMatrix;
use treillage_linalg::hadamard;

use crate::Rotation;

impl Rotation {
    /// Whether it fits an input of this width.
    pub fn divides(self, in_features: usize) -> bool {
        crate::linear::check_rotation(self, in_features).is_ok()
    }

    /// `W ← W R`, for `weights` of shape (in, out) whose width it divides.
    pub(crate) fn apply_to_weights(self, weights: &mut DMatrix<f32>) {
        if let Rotation::Block(block) = self {
            hadamard::rotate_rows(weights, block);
        }
    }

    /// `H ← R H R`: what the second moment of inputs becomes when they are rotated. A rotated matrix with a Hessian that is
    /// not is worse than no rotation at all.
    pub(crate) fn apply_to_hessian(self, hessian: &mut DMatrix<f32>) {
        if let Rotation::Block(block) = self {
            hadamard::rotate_both(hessian, block);
        }
    }
}
