use std::arch::x86_64::*;

use treillage_trellis::SimdLevel;
use treillage_trellis::lanes::Isa;

use super::{BYTES, LANES, Simd, Work, intrinsics};

/// AVX2 with FMA; a vector is two registers.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Does `work`.
///
/// # Panics
/// If `isa` is another.
pub(super) fn run(isa: Isa, work: impl Work) {
    assert_eq!(isa.level(), SimdLevel::Avx2, "instructions");
    // SAFETY: there is an `Isa` of this level only where the CPU has what this enables.
    unsafe { enabled(work) }
}

#[target_feature(enable = "avx2,fma")]
fn enabled(work: impl Work) {
    work.run(Avx2(()));
}

#[inline(always)]
fn load(bytes: &[u8; BYTES]) -> [__m256i; 2] {
    let from = bytes.as_ptr().cast::<__m256i>();
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions; two registers are 64
    // bytes.
    unsafe { [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))] }
}

/// What the low nibbles of bytes, then the high ones, are in a table of sixteen bytes, twice.
#[inline(always)]
fn look_up(bytes: [__m256i; 2], table: __m256i) -> [[__m256i; 2]; 2] {
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions.
    unsafe {
        let mask = _mm256_set1_epi8(15);
        let low = [
            _mm256_and_si256(bytes[0], mask),
            _mm256_and_si256(bytes[1], mask),
        ];
        let high = [
            _mm256_srli_epi16::<4>(bytes[0]),
            _mm256_srli_epi16::<4>(bytes[1]),
        ];
        let high = [
            _mm256_and_si256(high[0], mask),
            _mm256_and_si256(high[1], mask),
        ];
        [
            [
                _mm256_shuffle_epi8(table, low[0]),
                _mm256_shuffle_epi8(table, low[1]),
            ],
            [
                _mm256_shuffle_epi8(table, high[0]),
                _mm256_shuffle_epi8(table, high[1]),
            ],
        ]
    }
}

/// Sums of four products of unsigned and signed bytes, of which neighbours' do not overflow 16 bits.
#[inline(always)]
fn dot_small(weights: __m256i, x: __m256i) -> __m256i {
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions.
    unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), _mm256_set1_epi16(1)) }
}

/// Sums of four products of unsigned and signed bytes.
#[inline(always)]
fn dot_large(weights: __m256i, x: __m256i) -> __m256i {
    // SAFETY: called by methods of `Avx2` alone, which exists only where the CPU has the instructions.
    unsafe {
        // Two products of up to 255 · 127 overflow 16 bits; the low seven bits and the eighth apart do not.
        let low = _mm256_and_si256(weights, _mm256_set1_epi8(0x7F));
        let high = _mm256_and_si256(_mm256_srli_epi16::<7>(weights), _mm256_set1_epi8(1));
        let low = _mm256_madd_epi16(_mm256_maddubs_epi16(low, x), _mm256_set1_epi16(1));
        let high = _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), _mm256_set1_epi16(128));
        _mm256_add_epi32(low, high)
    }
}

impl Simd for Avx2 {
    type Bytes = [__m256i; 2];
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];
    type Table = __m256i;
    type Codes = [[__m256i; 2]; 2];

    const ROWS: usize = 2;
    const OUTPUTS: usize = 1;

    #[inline(always)]
    fn unsigned<const H: usize>(self, bytes: &[u8; BYTES], table: Self::Bytes) -> [Self::Bytes; H] {
        let bytes = load(bytes);
        let mut codes = [bytes; H];
        if H == 2 {
            codes.copy_from_slice(&look_up(bytes, table[0]));
        }
        codes
    }

    intrinsics! {
        fn table(values: &[i8; 16]) -> __m256i {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast()))
        }
        fn codes<const H: usize>(bytes: &[u8; BYTES], table: __m256i) -> Self::Codes {
            let bytes = load(bytes);
            if H == 2 {
                look_up(bytes, table)
            } else {
                let flip = _mm256_set1_epi8(-128);
                [[_mm256_xor_si256(bytes[0], flip), _mm256_xor_si256(bytes[1], flip)]; 2]
            }
        }
        fn values<const H: usize>(
            codes: Self::Codes,
            _table: __m256i,
            h: usize,
            n: usize
        ) -> Self::Floats {
            let up = _mm_cvtsi32_si128(24 - 8 * n as i32);
            let [low, high] = codes[h];
            let low = _mm256_srai_epi32::<24>(_mm256_sll_epi32(low, up));
            let high = _mm256_srai_epi32::<24>(_mm256_sll_epi32(high, up));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
        }

        fn unsigned_table(values: &[u8; 16]) -> Self::Bytes {
            [_mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast())); 2]
        }
        fn load_bytes(from: &[i8; BYTES]) -> Self::Bytes {
            let from = from.as_ptr().cast::<__m256i>();
            [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))]
        }
        fn dot<const H: usize>(
            start: Self::Ints,
            weights: Self::Bytes,
            x: Self::Bytes
        ) -> Self::Ints {
            let sums = if H == 2 {
                [dot_small(weights[0], x[0]), dot_small(weights[1], x[1])]
            } else {
                [dot_large(weights[0], x[0]), dot_large(weights[1], x[1])]
            };
            [_mm256_add_epi32(start[0], sums[0]), _mm256_add_epi32(start[1], sums[1])]
        }
        fn load_ints(from: &[i32; LANES]) -> Self::Ints {
            let from = from.as_ptr().cast::<__m256i>();
            [_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))]
        }
        fn convert(a: Self::Ints) -> Self::Floats {
            [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])]
        }

        fn splat(value: f32) -> Self::Floats { [_mm256_set1_ps(value); 2] }
        fn load(from: &[f32; LANES]) -> Self::Floats {
            [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))]
        }
        fn store(a: Self::Floats, to: &mut [f32; LANES]) -> () {
            _mm256_storeu_ps(to.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), a[1]);
        }
        fn spread(from: &[f32; LANES], shift: u32) -> Self::Floats {
            let first = _mm256_loadu_ps(from.as_ptr());
            if shift == 4 {
                return [first, _mm256_loadu_ps(from.as_ptr().add(8))];
            }
            let count = _mm_cvtsi32_si128(4 - shift as i32);
            let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
            [
                _mm256_permutevar8x32_ps(first, _mm256_srl_epi32(low, count)),
                _mm256_permutevar8x32_ps(first, _mm256_srl_epi32(high, count)),
            ]
        }
        fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
            [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
        }
        fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn sum(a: Self::Floats) -> f32 {
            let eight = _mm256_add_ps(a[0], a[1]);
            let high = _mm256_extractf128_ps::<1>(eight);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), high);
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
