//! Transforms in NEON registers, equal to [`portable`](super::portable) to the bit; built as the ones for x86 are.

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use super::scale;

/// Transforms each run of `block` values in place, if this processor has NEON; false if it has not.
pub(super) fn fwht(row: &mut [f32], block: usize) -> bool {
    if !is_aarch64_feature_detected!("neon") {
        return false;
    }
    // SAFETY: NEON was just detected.
    unsafe {
        match block {
            16 => neon::<4>(row),
            32 => neon::<8>(row),
            64 => neon::<16>(row),
            _ => neon::<32>(row),
        }
    }
    true
}

/// Blocks of `R` registers of 4 values.
#[target_feature(enable = "neon")]
fn neon<const R: usize>(row: &mut [f32]) {
    // SAFETY: the arrays hold 4 values.
    let [sign1, sign2] = [[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0f32]]
        .map(|signs| unsafe { vld1q_f32(signs.as_ptr()) });
    let scale = scale(4 * R);
    for block in row.as_chunks_mut::<4>().0.as_chunks_mut::<R>().0 {
        let mut v = [vdupq_n_f32(0.0); R];
        for (v, lanes) in v.iter_mut().zip(&*block) {
            // SAFETY: the array holds 4 values.
            let x = unsafe { vld1q_f32(lanes.as_ptr()) };
            let x = vmulq_n_f32(x, scale);
            let x = vfmaq_f32(vrev64q_f32(x), x, sign1);
            *v = vfmaq_f32(vextq_f32::<2>(x, x), x, sign2);
        }
        let mut half = 1;
        while half < R {
            for i in (0..R).filter(|i| i & half == 0) {
                let (a, b) = (v[i], v[i + half]);
                v[i] = vaddq_f32(a, b);
                v[i + half] = vsubq_f32(a, b);
            }
            half *= 2;
        }
        for (lanes, v) in block.iter_mut().zip(v) {
            // SAFETY: the array holds 4 values.
            unsafe { vst1q_f32(lanes.as_mut_ptr(), v) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hadamard::paths::assert_equals_portable;

    #[test]
    fn neon_equals_portable() {
        if is_aarch64_feature_detected!("neon") {
            assert_equals_portable(|row, block| assert!(fwht(row, block)));
        } else {
            println!("skipped: this processor has no NEON");
        }
    }
}
