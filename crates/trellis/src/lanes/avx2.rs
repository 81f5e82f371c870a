use std::arch::{is_x86_feature_detected, x86_64::*};

use super::ring::{Ring, thread_start, upper_offset, window_shift};
use super::{Kernel, LANES, Lanes, Vectors, intrinsics};

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
    /// The 64 bits of each thread that hold elements 0, 1, 4 and 5, then those that hold the others.
    type Group = [[__m256i; 2]; 2];

    #[inline(always)]
    fn stage<const K: usize>(self, words: &[u16], ring: &mut Ring) {
        ring.fill::<K>(words);
    }

    #[inline(always)]
    fn group<const K: usize>(self, _: &[u16], ring: &Ring, group: usize) -> Self::Group {
        let (thread, upper) = (8 * group, upper_offset(K));
        [
            [
                runs::<K>(ring, thread, upper),
                runs::<K>(ring, thread + 4, upper),
            ],
            [runs::<K>(ring, thread, 0), runs::<K>(ring, thread + 4, 0)],
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
}

impl Vectors for Avx2 {
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];

    const ROWS: usize = 1;
    const FUSES: bool = true;

    #[inline(always)]
    fn byte_factor(factor: i8) -> u32 {
        // Both 16-bit halves: bytes are added up in pairs first.
        u32::from(i16::from(factor) as u16) * 0x0001_0001
    }

    #[inline(always)]
    fn fold(self, groups: [Self::Ints; 4]) -> Self::Ints {
        fold::<false>(groups)
    }

    intrinsics! {
        fn splat(value: u32) -> Self::Ints { [_mm256_set1_epi32(value as i32); 2] }
        fn load(from: &[u32; LANES]) -> Self::Ints {
            let from = from.as_ptr().cast::<__m256i>();
            [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))]
        }
        fn load_twice(from: &[u32; LANES / 2]) -> Self::Ints {
            [_mm256_loadu_si256(from.as_ptr().cast()); 2]
        }
        fn store(a: Self::Ints, to: &mut [u32; LANES]) -> () {
            let to = to.as_mut_ptr().cast::<__m256i>();
            _mm256_storeu_si256(to, a[0]);
            _mm256_storeu_si256(to.add(1), a[1]);
        }
        fn add(a: Self::Ints, b: Self::Ints) -> Self::Ints {
            [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]
        }
        fn mask(a: Self::Ints, mask: Self::Ints) -> Self::Ints {
            [_mm256_and_si256(a[0], mask[0]), _mm256_and_si256(a[1], mask[1])]
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
        fn dot_bytes(start: Self::Ints, a: Self::Ints, factors: Self::Ints) -> Self::Ints {
            let ones = _mm256_set1_epi8(1);
            let pairs = [_mm256_maddubs_epi16(a[0], ones), _mm256_maddubs_epi16(a[1], ones)];
            let sums = [
                _mm256_madd_epi16(pairs[0], factors[0]),
                _mm256_madd_epi16(pairs[1], factors[1]),
            ];
            [_mm256_add_epi32(start[0], sums[0]), _mm256_add_epi32(start[1], sums[1])]
        }
        fn dot_halves(start: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints {
            let sums = [_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1])];
            [_mm256_add_epi32(start[0], sums[0]), _mm256_add_epi32(start[1], sums[1])]
        }

        fn convert(a: Self::Ints) -> Self::Floats {
            [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])]
        }
        fn floats_of_bits(a: Self::Ints) -> Self::Floats {
            [_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1])]
        }
        fn bits_of_floats(a: Self::Floats) -> Self::Ints {
            [_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1])]
        }
        fn splat_float(value: f32) -> Self::Floats { [_mm256_set1_ps(value); 2] }
        fn load_floats(from: &[f32; LANES]) -> Self::Floats {
            [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))]
        }
        fn load_floats_twice(from: &[f32; LANES / 2]) -> Self::Floats {
            [_mm256_loadu_ps(from.as_ptr()); 2]
        }
        fn store_floats(a: Self::Floats, to: &mut [f32; LANES]) -> () {
            _mm256_storeu_ps(to.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), a[1]);
        }
        fn add_floats(a: Self::Floats, b: Self::Floats) -> Self::Floats {
            [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
        }
        fn mul_floats(a: Self::Floats, b: Self::Floats) -> Self::Floats {
            [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
        }
        fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn fold_floats(groups: [Self::Floats; 4]) -> Self::Floats {
            let [a, b, c, d] = groups;
            let bits = [
                [_mm256_castps_si256(a[0]), _mm256_castps_si256(a[1])],
                [_mm256_castps_si256(b[0]), _mm256_castps_si256(b[1])],
                [_mm256_castps_si256(c[0]), _mm256_castps_si256(c[1])],
                [_mm256_castps_si256(d[0]), _mm256_castps_si256(d[1])],
            ];
            let [low, high] = fold::<true>(bits);
            [_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)]
        }
    }
}

/// The 64-bit runs of four threads, each `offset` bytes after the thread's start.
#[inline(always)]
fn runs<const K: usize>(ring: &Ring, thread: usize, offset: usize) -> __m256i {
    // The runs of two neighbours lie in 16 bytes, that of the later one first.
    let first: &[u8; 16] = ring.run(thread_start(K, thread + 1) + offset);
    let second: &[u8; 16] = ring.run(thread_start(K, thread + 3) + offset);
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
    let down = window_shift(K, vector) as i32;
    let up = 32 - window_shift(K, vector + 4) as i32;
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions.
    unsafe {
        let low = _mm256_srl_epi64(runs, _mm_cvtsi32_si128(down));
        let high = _mm256_sll_epi64(runs, _mm_cvtsi32_si128(up));
        let both = _mm256_blend_epi32::<0b1010_1010>(low, high);
        let states = _mm256_and_si256(both, _mm256_set1_epi32(0xFFFF));
        _mm256_mullo_epi32(states, _mm256_set1_epi32(multiplier as i32))
    }
}

/// [`Vectors::fold`], of integers or of the bits of floats.
#[inline(always)]
fn fold<const FLOATS: bool>([a, b, c, d]: [[__m256i; 2]; 4]) -> [__m256i; 2] {
    // Columns 0, 8, 2, 10, 4, 12, 6, 14, and the same again from 1.
    let even = fold_half::<FLOATS>(a[0], b[0], c[0], d[0]);
    let odd = fold_half::<FLOATS>(a[1], b[1], c[1], d[1]);
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions.
    unsafe {
        [
            _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd)),
            _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd),
        ]
    }
}

/// The four pairs of lanes of each register, added up.
#[inline(always)]
fn fold_half<const FLOATS: bool>(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions.
    unsafe {
        let low = add::<FLOATS>(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        let high = add::<FLOATS>(_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
        add::<FLOATS>(
            _mm256_permute2x128_si256::<0x20>(low, high),
            _mm256_permute2x128_si256::<0x31>(low, high),
        )
    }
}

#[inline(always)]
fn add<const FLOATS: bool>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions.
    unsafe {
        if FLOATS {
            let sum = _mm256_add_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
            _mm256_castps_si256(sum)
        } else {
            _mm256_add_epi32(a, b)
        }
    }
}
