use std::arch::{is_x86_feature_detected, x86_64::*};

use super::gather::Gather;
use super::ring::{Ring, is_wide};
use super::{Kernel, LANES, Lanes, Vectors, intrinsics};

/// AVX-512 with VBMI, which gathers bytes and bit windows across a register, and VNNI, which adds up bytes.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The instructions, if this machine has them.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vnni");
        found.then_some(Self(()))
    }

    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: `detect` found what this enables.
        unsafe { self.enabled(kernel) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
    fn enabled<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

impl Lanes for Avx512 {
    /// The 64 bits of each thread that hold elements 0, 1, 4 and 5, then those that hold the others.
    type Group = [__m512i; 2];

    #[inline(always)]
    fn stage<const K: usize>(self, _: &[u16], _: &mut Ring) {}

    #[inline(always)]
    fn group<const K: usize>(self, words: &[u16], _: &Ring, group: usize) -> Self::Group {
        let tile = &words[..16 * K];
        let lower = gather::<K>(tile, group, 1);
        if is_wide(K) {
            [gather::<K>(tile, group, 0), lower]
        } else {
            [lower, lower]
        }
    }

    #[inline(always)]
    fn products<const K: usize>(
        self,
        group: [__m512i; 2],
        vector: usize,
        multiplier: u32,
    ) -> __m512i {
        // With the state s in both halves of a lane, s (2¹⁶ + 1) · m (1 − 2¹⁶) = s m modulo 2³²: no half needs clearing.
        let multiplier = multiplier.wrapping_mul(0xFFFF_0001);
        let windows = i64::from_le_bytes(Gather::<K>::WINDOWS[vector]);
        // SAFETY: a value of this type exists only where the CPU has the instructions.
        unsafe {
            let states =
                _mm512_multishift_epi64_epi8(_mm512_set1_epi64(windows), group[vector / 2]);
            _mm512_mullo_epi32(states, _mm512_set1_epi32(multiplier as i32))
        }
    }
}

impl Vectors for Avx512 {
    type Ints = __m512i;
    type Floats = __m512;

    const ROWS: usize = 4;
    const FUSES: bool = true;

    #[inline(always)]
    fn byte_factor(factor: i8) -> u32 {
        u32::from_le_bytes([factor as u8; 4])
    }

    #[inline(always)]
    fn fold(self, groups: [__m512i; 4]) -> __m512i {
        fold::<false>(groups)
    }

    intrinsics! {
        fn splat(value: u32) -> __m512i { _mm512_set1_epi32(value as i32) }
        fn load(from: &[u32; LANES]) -> __m512i { _mm512_loadu_si512(from.as_ptr().cast()) }
        fn load_twice(from: &[u32; LANES / 2]) -> __m512i {
            _mm512_broadcast_i64x4(_mm256_loadu_si256(from.as_ptr().cast()))
        }
        fn store(a: __m512i, to: &mut [u32; LANES]) -> () {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), a)
        }
        fn add(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn mask(a: __m512i, mask: __m512i) -> __m512i { _mm512_and_si512(a, mask) }
        fn mask_flip(a: __m512i, mask: __m512i, flip: __m512i) -> __m512i {
            _mm512_ternarylogic_epi32::<0b0111_1000>(flip, a, mask)
        }
        fn shift_up(a: __m512i) -> __m512i { _mm512_slli_epi32::<16>(a) }
        fn shift_down(a: __m512i) -> __m512i { _mm512_srai_epi32::<3>(a) }
        fn byte_sums(start: __m512i, a: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(start, a, _mm512_set1_epi8(1))
        }
        fn dot_bytes(start: __m512i, a: __m512i, factors: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(start, a, factors)
        }
        fn dot_halves(start: __m512i, a: __m512i, b: __m512i) -> __m512i {
            _mm512_dpwssd_epi32(start, a, b)
        }

        fn convert(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
        fn floats_of_bits(a: __m512i) -> __m512 { _mm512_castsi512_ps(a) }
        fn bits_of_floats(a: __m512) -> __m512i { _mm512_castps_si512(a) }
        fn splat_float(value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn load_floats(from: &[f32; LANES]) -> __m512 { _mm512_loadu_ps(from.as_ptr()) }
        fn load_floats_twice(from: &[f32; LANES / 2]) -> __m512 {
            _mm512_broadcast_f32x8(_mm256_loadu_ps(from.as_ptr()))
        }
        fn store_floats(a: __m512, to: &mut [f32; LANES]) -> () {
            _mm512_storeu_ps(to.as_mut_ptr(), a)
        }
        fn add_floats(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn mul_floats(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn fold_floats(groups: [__m512; 4]) -> __m512 {
            let [a, b, c, d] = groups;
            let bits = [
                _mm512_castps_si512(a),
                _mm512_castps_si512(b),
                _mm512_castps_si512(c),
                _mm512_castps_si512(d),
            ];
            _mm512_castsi512_ps(fold::<true>(bits))
        }
    }
}

/// The runs of a group's eight threads, upper (0) or from the threads' start (1).
#[inline(always)]
fn gather<const K: usize>(tile: &[u16], group: usize, run: usize) -> __m512i {
    let start = &tile[Gather::<K>::START[group] / 2..];
    let indices = &Gather::<K>::INDICES[group][run];
    // SAFETY: called by methods of `Avx512` alone, which exists only where the CPU has the instructions; every slice is as
    // long as what is read.
    unsafe {
        let indices = _mm512_loadu_si512(indices.as_ptr().cast());
        if K == 1 {
            let tile = _mm256_loadu_si256(start[..16].as_ptr().cast());
            return _mm512_permutexvar_epi8(indices, _mm512_broadcast_i64x4(tile));
        }
        let bytes = _mm512_loadu_si512(start[..32].as_ptr().cast());
        if !Gather::<K>::GOES_BACK[group] {
            return _mm512_permutexvar_epi8(indices, bytes);
        }
        let before = &tile[Gather::<K>::BEFORE[group] / 2..][..32];
        let before = _mm512_loadu_si512(before.as_ptr().cast());
        _mm512_permutex2var_epi8(bytes, indices, before)
    }
}

/// [`Vectors::fold`], of integers or of the bits of floats.
#[inline(always)]
fn fold<const FLOATS: bool>([a, b, c, d]: [__m512i; 4]) -> __m512i {
    // SAFETY: called by methods of `Avx512` alone, which exists only where the CPU has the instructions.
    unsafe {
        let low = add::<FLOATS>(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        let high = add::<FLOATS>(_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d));
        let sums = add::<FLOATS>(
            _mm512_shuffle_i64x2::<0b10_00_10_00>(low, high),
            _mm512_shuffle_i64x2::<0b11_01_11_01>(low, high),
        );
        // Columns 0, 8, 2, 10, 1, 9, 3, 11 by now, then the same again from 4.
        let order = _mm512_setr_epi32(0, 4, 2, 6, 8, 12, 10, 14, 1, 5, 3, 7, 9, 13, 11, 15);
        _mm512_permutexvar_epi32(order, sums)
    }
}

#[inline(always)]
fn add<const FLOATS: bool>(a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: called by methods of `Avx512` alone, which exists only where the CPU has the instructions.
    unsafe {
        if FLOATS {
            let sum = _mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
            _mm512_castps_si512(sum)
        } else {
            _mm512_add_epi32(a, b)
        }
    }
}
