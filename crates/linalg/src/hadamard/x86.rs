//! Transforms in AVX-512 and AVX2 registers, equal to [`portable`](super::portable) to the bit.
//!
//! A stage within a register adds each value, its sign flipped in the upper half of every pair, to its partner: one
//! permutation and one fused multiply-add, exact because the factors are ±1. Later stages pair whole registers.

use std::arch::x86_64::*;

use super::scale;

/// Transforms each run of `block` values in place, if this processor has a path for it; false if it has not.
pub(super) fn fwht(row: &mut [f32], block: usize) -> bool {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: AVX-512F was just detected.
        unsafe { fwht_avx512(row, block) };
        true
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: AVX2 and FMA were just detected.
        unsafe { fwht_avx2(row, block) };
        true
    } else {
        false
    }
}

#[target_feature(enable = "avx512f")]
fn fwht_avx512(row: &mut [f32], block: usize) {
    match block {
        16 => avx512::<1>(row),
        32 => avx512::<2>(row),
        64 => avx512::<4>(row),
        _ => avx512::<8>(row),
    }
}

#[target_feature(enable = "avx2,fma")]
fn fwht_avx2(row: &mut [f32], block: usize) {
    match block {
        16 => avx2::<2>(row),
        32 => avx2::<4>(row),
        64 => avx2::<8>(row),
        _ => avx2::<16>(row),
    }
}

/// Blocks of `R` registers of 16 values.
#[target_feature(enable = "avx512f")]
fn avx512<const R: usize>(row: &mut [f32]) {
    let [sign1, sign2, sign4, sign8] = [1, 2, 4, 8].map(|half| {
        let signs: [f32; 16] = std::array::from_fn(|i| if i & half == 0 { 1.0 } else { -1.0 });
        // SAFETY: the array holds 16 values.
        unsafe { _mm512_loadu_ps(signs.as_ptr()) }
    });
    let scale = _mm512_set1_ps(scale(16 * R));
    for block in row.as_chunks_mut::<16>().0.as_chunks_mut::<R>().0 {
        let mut v = [_mm512_setzero_ps(); R];
        for (v, lanes) in v.iter_mut().zip(&*block) {
            // SAFETY: the array holds 16 values.
            let x = unsafe { _mm512_loadu_ps(lanes.as_ptr()) };
            let x = _mm512_mul_ps(x, scale);
            let x = _mm512_fmadd_ps(x, sign1, _mm512_permute_ps::<0b10_11_00_01>(x));
            let x = _mm512_fmadd_ps(x, sign2, _mm512_permute_ps::<0b01_00_11_10>(x));
            let x = _mm512_fmadd_ps(x, sign4, _mm512_shuffle_f32x4::<0b10_11_00_01>(x, x));
            *v = _mm512_fmadd_ps(x, sign8, _mm512_shuffle_f32x4::<0b01_00_11_10>(x, x));
        }
        let mut half = 1;
        while half < R {
            for i in (0..R).filter(|i| i & half == 0) {
                let (a, b) = (v[i], v[i + half]);
                v[i] = _mm512_add_ps(a, b);
                v[i + half] = _mm512_sub_ps(a, b);
            }
            half *= 2;
        }
        for (lanes, v) in block.iter_mut().zip(v) {
            // SAFETY: the array holds 16 values.
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), v) };
        }
    }
}

/// Blocks of `R` registers of 8 values.
#[target_feature(enable = "avx2,fma")]
fn avx2<const R: usize>(row: &mut [f32]) {
    let [sign1, sign2, sign4] = [1, 2, 4].map(|half| {
        let signs: [f32; 8] = std::array::from_fn(|i| if i & half == 0 { 1.0 } else { -1.0 });
        // SAFETY: the array holds 8 values.
        unsafe { _mm256_loadu_ps(signs.as_ptr()) }
    });
    let scale = _mm256_set1_ps(scale(8 * R));
    for block in row.as_chunks_mut::<8>().0.as_chunks_mut::<R>().0 {
        let mut v = [_mm256_setzero_ps(); R];
        for (v, lanes) in v.iter_mut().zip(&*block) {
            // SAFETY: the array holds 8 values.
            let x = unsafe { _mm256_loadu_ps(lanes.as_ptr()) };
            let x = _mm256_mul_ps(x, scale);
            let x = _mm256_fmadd_ps(x, sign1, _mm256_permute_ps::<0b10_11_00_01>(x));
            let x = _mm256_fmadd_ps(x, sign2, _mm256_permute_ps::<0b01_00_11_10>(x));
            *v = _mm256_fmadd_ps(x, sign4, _mm256_permute2f128_ps::<1>(x, x));
        }
        let mut half = 1;
        while half < R {
            for i in (0..R).filter(|i| i & half == 0) {
                let (a, b) = (v[i], v[i + half]);
                v[i] = _mm256_add_ps(a, b);
                v[i + half] = _mm256_sub_ps(a, b);
            }
            half *= 2;
        }
        for (lanes, v) in block.iter_mut().zip(v) {
            // SAFETY: the array holds 8 values.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), v) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hadamard::paths::assert_equals_portable;

    #[test]
    fn avx512_equals_portable() {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: AVX-512F was just detected.
            assert_equals_portable(|row, block| unsafe { fwht_avx512(row, block) });
        } else {
            println!("skipped: this processor has no AVX-512");
        }
    }

    #[test]
    fn avx2_equals_portable() {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: AVX2 and FMA were just detected.
            assert_equals_portable(|row, block| unsafe { fwht_avx2(row, block) });
        } else {
            println!("skipped: this processor has no AVX2 and FMA");
        }
    }
}
