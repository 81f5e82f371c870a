use std::arch::x86_64::*;

use treillage_trellis::SimdLevel;
use treillage_trellis::lanes::Isa;

use super::{BYTES, LANES, Simd, Work, intrinsics};

/// AVX-512 with VNNI, which adds up products of bytes.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Does `work`.
///
/// # Panics
/// If `isa` is another.
pub(super) fn run(isa: Isa, work: impl Work) {
    assert_eq!(isa.level(), SimdLevel::Avx512, "instructions");
    // SAFETY: there is an `Isa` of this level only where the CPU has what this enables.
    unsafe { enabled(work) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vnni")]
fn enabled(work: impl Work) {
    work.run(Avx512(()));
}

/// Nibbles that lie in the low halves of bytes.
#[inline(always)]
fn low_nibbles(a: __m512i) -> __m512i {
    // SAFETY: called by methods of `Avx512` alone, which exists only where the CPU has the instructions.
    unsafe { _mm512_and_si512(a, _mm512_set1_epi8(15)) }
}

impl Simd for Avx512 {
    type Bytes = __m512i;
    type Ints = __m512i;
    type Floats = __m512;
    type Table = __m512;
    type Codes = __m512i;

    const ROWS: usize = 4;
    const OUTPUTS: usize = 4;

    intrinsics! {
        fn table(values: &[i8; 16]) -> __m512 {
            let values = _mm_loadu_si128(values.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(values))
        }
        fn codes<const H: usize>(bytes: &[u8; BYTES], _table: __m512) -> __m512i {
            let bytes = _mm512_loadu_si512(bytes.as_ptr().cast());
            if H == 2 { bytes } else { _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)) }
        }
        fn values<const H: usize>(codes: __m512i, table: __m512, h: usize, n: usize) -> __m512 {
            if H == 2 {
                // A look-up among sixteen heeds the lowest four bits alone.
                let down = _mm_cvtsi32_si128((8 * n + 4 * h) as i32);
                _mm512_permutexvar_ps(_mm512_srl_epi32(codes, down), table)
            } else {
                let up = _mm_cvtsi32_si128(24 - 8 * n as i32);
                _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(_mm512_sll_epi32(codes, up)))
            }
        }

        fn unsigned_table(values: &[u8; 16]) -> __m512i {
            _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast()))
        }
        fn unsigned<const H: usize>(bytes: &[u8; BYTES], table: __m512i) -> [__m512i; H] {
            let bytes = _mm512_loadu_si512(bytes.as_ptr().cast());
            let mut codes = [bytes; H];
            if H == 2 {
                let high = _mm512_srli_epi16::<4>(bytes);
                codes[0] = _mm512_shuffle_epi8(table, low_nibbles(bytes));
                codes[1] = _mm512_shuffle_epi8(table, low_nibbles(high));
            }
            codes
        }
        fn load_bytes(from: &[i8; BYTES]) -> __m512i { _mm512_loadu_si512(from.as_ptr().cast()) }
        fn dot<const H: usize>(start: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(start, weights, x)
        }
        fn load_ints(from: &[i32; LANES]) -> __m512i { _mm512_loadu_si512(from.as_ptr().cast()) }
        fn convert(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }

        fn splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn load(from: &[f32; LANES]) -> __m512 { _mm512_loadu_ps(from.as_ptr()) }
        fn store(a: __m512, to: &mut [f32; LANES]) -> () { _mm512_storeu_ps(to.as_mut_ptr(), a) }
        fn spread(from: &[f32; LANES], shift: u32) -> __m512 {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let lanes = _mm512_srl_epi32(lanes, _mm_cvtsi32_si128(4 - shift as i32));
            _mm512_permutexvar_ps(lanes, _mm512_loadu_ps(from.as_ptr()))
        }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn sum(a: __m512) -> f32 { _mm512_reduce_add_ps(a) }
    }
}
