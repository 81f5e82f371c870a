use std::arch::x86_64::*;

use super::{Kernel, LANES, Lanes, intrinsics};

/// AVX2 with FMA: two registers for sixteen floats.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

type Floats = [__m256; 2];

impl Avx2 {
    /// The instructions, if this machine has them.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        found.then_some(Self(()))
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `detect` found what this enables.
        unsafe { self.enabled(kernel) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn enabled<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

impl Lanes for Avx2 {
    type Floats = Floats;

    const WIDE: bool = false;

    intrinsics! {
        fn splat(value: f32) -> Floats { [_mm256_set1_ps(value); 2] }
        fn load(from: &[f32; LANES]) -> Floats {
            [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))]
        }
        fn store(a: Floats, to: &mut [f32; LANES]) -> () {
            _mm256_storeu_ps(to.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), a[1]);
        }
        fn add(a: Floats, b: Floats) -> Floats {
            [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
        }
        fn sub(a: Floats, b: Floats) -> Floats {
            [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
        }
        fn mul(a: Floats, b: Floats) -> Floats {
            [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
        }
        fn div(a: Floats, b: Floats) -> Floats {
            [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
        }
        fn mul_add(a: Floats, b: Floats, c: Floats) -> Floats {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn min(a: Floats, b: Floats) -> Floats {
            [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
        }
        fn max(a: Floats, b: Floats) -> Floats {
            [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
        }
        fn and(a: Floats, mask: u32) -> Floats {
            let mask = _mm256_castsi256_ps(_mm256_set1_epi32(mask.cast_signed()));
            [_mm256_and_ps(a[0], mask), _mm256_and_ps(a[1], mask)]
        }
        fn or(a: Floats, b: Floats) -> Floats {
            [_mm256_or_ps(a[0], b[0]), _mm256_or_ps(a[1], b[1])]
        }
        fn prefetch(at: &[f32; LANES]) -> () {
            _mm_prefetch::<_MM_HINT_T0>(at.as_ptr().cast())
        }
        fn to_bytes(a: Floats) -> [u8; LANES] {
            // Packing works within halves of a register: quarters come out as 0 2 1 3.
            let words = _mm256_packus_epi32(_mm256_cvtps_epi32(a[0]), _mm256_cvtps_epi32(a[1]));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let mut to = [0; LANES];
            _mm_storeu_si128(to.as_mut_ptr().cast(), _mm_packus_epi16(low, high));
            to
        }
    }
}
