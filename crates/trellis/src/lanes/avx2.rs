use std::arch::{is_x86_feature_detected, x86_64::*};

use super::{Kernel, LANES, Lanes, Ring, intrinsics, ring};

/// AVX2 with FMA; a vector is two registers.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

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
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];
    /// The 64 bits of each thread that hold elements 0, 1, 4 and 5, then those that hold the others.
    type Group = [[__m256i; 2]; 2];

    #[inline(always)]
    fn stage<'a, const K: usize>(self, words: &'a [u16], ring: &'a mut Ring) -> &'a [u8] {
        ring.fill::<K>(words)
    }

    #[inline(always)]
    fn group<const K: usize>(self, staged: &[u8], group: usize) -> Self::Group {
        let (thread, upper) = (8 * group, ring::upper_offset(K));
        [
            [
                runs::<K>(staged, thread, upper),
                runs::<K>(staged, thread + 4, upper),
            ],
            [
                runs::<K>(staged, thread, 0),
                runs::<K>(staged, thread + 4, 0),
            ],
        ]
    }

    #[inline(always)]
    fn products<const K: usize>(
        self,
        group: Self::Group,
        vector: usize,
        multiplier: u32,
    ) -> Self::Ints {
        let [first, second] = group[vector / 2];
        [
            products::<K>(first, vector, multiplier),
            products::<K>(second, vector, multiplier),
        ]
    }

    #[inline(always)]
    fn store(self, a: [__m256; 2], to: &mut [f32; LANES]) {
        // SAFETY: a value of this type exists only where the CPU has the instructions, and `to` is 64 bytes.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), a[1]);
        }
    }

    intrinsics! {
        fn splat(value: u32) -> Self::Ints { [_mm256_set1_epi32(value as i32); 2] }
        fn add(a: Self::Ints, b: Self::Ints) -> Self::Ints {
            [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]
        }
        fn mask_flip(a: Self::Ints, mask: Self::Ints, flip: Self::Ints) -> Self::Ints {
            let masked = [_mm256_and_si256(a[0], mask[0]), _mm256_and_si256(a[1], mask[1])];
            [_mm256_xor_si256(masked[0], flip[0]), _mm256_xor_si256(masked[1], flip[1])]
        }
        fn shift_up(a: Self::Ints) -> Self::Ints {
            [_mm256_slli_epi32::<16>(a[0]), _mm256_slli_epi32::<16>(a[1])]
        }
        fn shift_down(a: Self::Ints) -> Self::Ints {
            [_mm256_srai_epi32::<3>(a[0]), _mm256_srai_epi32::<3>(a[1])]
        }
        fn byte_sums(start: Self::Ints, a: Self::Ints) -> Self::Ints {
            let (bytes, words) = (_mm256_set1_epi8(1), _mm256_set1_epi16(1));
            let pairs = [_mm256_maddubs_epi16(a[0], bytes), _mm256_maddubs_epi16(a[1], bytes)];
            let sums = [_mm256_madd_epi16(pairs[0], words), _mm256_madd_epi16(pairs[1], words)];
            [_mm256_add_epi32(start[0], sums[0]), _mm256_add_epi32(start[1], sums[1])]
        }
        fn to_floats(a: Self::Ints) -> Self::Floats {
            [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])]
        }
        fn floats_of_bits(a: Self::Ints) -> Self::Floats {
            [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])]
        }
        fn bits_of_floats(a: Self::Floats) -> Self::Ints {
            [_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1])]
        }
        fn splat_float(value: f32) -> Self::Floats { [_mm256_set1_ps(value); 2] }
        fn add_floats(a: Self::Floats, b: Self::Floats) -> Self::Floats {
            [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
        }
        fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
    }
}

/// The 64-bit runs of four threads, each `offset` bytes after the thread's start.
#[inline(always)]
fn runs<const K: usize>(staged: &[u8], thread: usize, offset: usize) -> __m256i {
    // The runs of two neighbours lie in 16 bytes, that of the later one first.
    let first = &staged[ring::thread_start(K, thread + 1) + offset..][..16];
    let second = &staged[ring::thread_start(K, thread + 3) + offset..][..16];
    let order = const {
        let mut order = [0; 16];
        let mut i = 0;
        while i < 16 {
            order[i] = (i % 8 + if i < 8 { K } else { 0 }) as u8;
            i += 1;
        }
        order
    };
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions; all three are 16
    // bytes.
    unsafe {
        let order = _mm256_broadcastsi128_si256(_mm_loadu_si128(order.as_ptr().cast()));
        let first = _mm_loadu_si128(first.as_ptr().cast());
        let second = _mm_loadu_si128(second.as_ptr().cast());
        _mm256_shuffle_epi8(_mm256_set_m128i(second, first), order)
    }
}

/// The states of four threads' elements `vector` and `vector + 4`, times `multiplier`.
#[inline(always)]
fn products<const K: usize>(runs: __m256i, vector: usize, multiplier: u32) -> __m256i {
    let down = ring::window_shift(K, vector) as i32;
    let up = 32 - ring::window_shift(K, vector + 4) as i32;
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions.
    unsafe {
        let low = _mm256_srl_epi64(runs, _mm_cvtsi32_si128(down));
        let high = _mm256_sll_epi64(runs, _mm_cvtsi32_si128(up));
        let both = _mm256_blend_epi32::<0b1010_1010>(low, high);
        let states = _mm256_and_si256(both, _mm256_set1_epi32(0xFFFF));
        _mm256_mullo_epi32(states, _mm256_set1_epi32(multiplier as i32))
    }
}
