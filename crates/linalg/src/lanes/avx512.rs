use std::arch::x86_64::*;

use super::{Kernel, LANES, Lanes, intrinsics};

/// AVX-512 as every processor since Skylake-X and Zen 4 has it.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The instructions, if this machine has them.
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        found.then_some(Self(()))
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `detect` found what this enables.
        unsafe { self.enabled(kernel) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn enabled<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

impl Lanes for Avx512 {
    type Floats = __m512;

    const WIDE: bool = true;

    intrinsics! {
        fn splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn load(from: &[f32; LANES]) -> __m512 { _mm512_loadu_ps(from.as_ptr()) }
        fn store(a: __m512, to: &mut [f32; LANES]) -> () { _mm512_storeu_ps(to.as_mut_ptr(), a) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn and(a: __m512, mask: u32) -> __m512 {
            _mm512_and_ps(a, _mm512_castsi512_ps(_mm512_set1_epi32(mask.cast_signed())))
        }
        fn or(a: __m512, b: __m512) -> __m512 { _mm512_or_ps(a, b) }
        fn prefetch(at: &[f32; LANES]) -> () {
            _mm_prefetch::<_MM_HINT_T0>(at.as_ptr().cast())
        }
        fn to_bytes(a: __m512) -> [u8; LANES] {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a));
            let mut to = [0; LANES];
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
            to
        }
    }
}
