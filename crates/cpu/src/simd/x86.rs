//! AVX2 and AVX-512.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{Kernel, LANES, Simd};

/// AVX2 with FMA and F16C: sixteen lanes are two registers.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The token, if the processor has what it stands for.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// Runs `kernel`, compiled for this instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn run<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` exists, so the processor has these features.
        unsafe { run(self, kernel) }
    }
}

impl Simd for Avx2 {
    type Vector = (__m256, __m256);

    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Vector {
        // SAFETY: `self` exists, so the processor has AVX2.
        let v = unsafe { _mm256_set1_ps(x) };
        (v, v)
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Vector {
        // SAFETY: `self` exists, so the processor has AVX2; both unaligned loads of eight stay inside `x`.
        unsafe {
            let x = x.as_ptr();
            (_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8)))
        }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::Vector {
        // SAFETY: `self` exists, so the processor has F16C; both unaligned loads of eight stay inside `x`.
        unsafe {
            let x = x.as_ptr().cast::<__m128i>();
            (
                _mm256_cvtph_ps(_mm_loadu_si128(x)),
                _mm256_cvtph_ps(_mm_loadu_si128(x.add(1))),
            )
        }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::Vector {
        // SAFETY: `self` exists, so the processor has AVX2; both unaligned loads of eight stay inside `x`.
        unsafe {
            let x = x.as_ptr().cast::<__m128i>();
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.add(1)));
            (
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            )
        }
    }

    #[inline(always)]
    fn store(self, v: Self::Vector, to: &mut [f32; LANES]) {
        // SAFETY: `self` exists, so the processor has AVX2; both unaligned stores of eight stay inside `to`.
        unsafe {
            let to = to.as_mut_ptr();
            _mm256_storeu_ps(to, v.0);
            _mm256_storeu_ps(to.add(8), v.1);
        }
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // SAFETY: `self` exists, so the processor has FMA.
        unsafe {
            (
                _mm256_fmadd_ps(a.0, b.0, c.0),
                _mm256_fmadd_ps(a.1, b.1, c.1),
            )
        }
    }

    #[inline(always)]
    fn sum(self, v: Self::Vector) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe { sum_of_eight(_mm256_add_ps(v.0, v.1)) }
    }
}

/// AVX-512 F.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// The token, if the processor has what it stands for.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f") && Avx2::detect().is_some();
        found.then_some(Self(()))
    }

    /// Runs `kernel`, compiled for this instruction set.
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx2,fma,f16c")]
        fn run<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: `self` exists, so the processor has these features.
        unsafe { run(self, kernel) }
    }
}

impl Simd for Avx512 {
    type Vector = __m512;

    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` exists, so the processor has AVX-512 F.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        // SAFETY: `self` exists, so the processor has AVX-512 F; the unaligned load of sixteen stays inside `x`.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> __m512 {
        // SAFETY: `self` exists, so the processor has AVX-512 F; the unaligned load of sixteen stays inside `x`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> __m512 {
        // SAFETY: `self` exists, so the processor has AVX-512 F; the unaligned load of sixteen stays inside `x`.
        unsafe {
            let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
        }
    }

    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; LANES]) {
        // SAFETY: `self` exists, so the processor has AVX-512 F; the unaligned store of sixteen stays inside `to`.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has AVX-512 F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` exists, so the processor has AVX-512 F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX-512 F and AVX2.
        unsafe {
            let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
            sum_of_eight(_mm256_add_ps(
                _mm512_castps512_ps256(v),
                _mm256_castpd_ps(high),
            ))
        }
    }
}

/// The sum of eight lanes, halves onto halves.
///
/// # Safety
/// The processor must have AVX2.
#[inline(always)]
unsafe fn sum_of_eight(v: __m256) -> f32 {
    // SAFETY: the caller's duty.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}
