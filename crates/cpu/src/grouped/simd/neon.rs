use std::arch::aarch64::*;

use super::{BYTES, LANES, Simd, intrinsics};

/// NEON, which every AArch64 has; a vector is four registers.
#[derive(Clone, Copy)]
pub(super) struct Neon;

/// What the low nibbles of bytes, then the high ones, are in a table.
#[inline(always)]
fn look_up(bytes: &[u8; BYTES], table: uint8x16_t) -> [[uint8x16_t; 4]; 2] {
    // SAFETY: NEON is part of every AArch64; four registers are 64 bytes.
    unsafe {
        let bytes: [uint8x16_t; 4] = std::array::from_fn(|i| vld1q_u8(bytes.as_ptr().add(16 * i)));
        [
            bytes.map(|b| vqtbl1q_u8(table, vandq_u8(b, vdupq_n_u8(15)))),
            bytes.map(|b| vqtbl1q_u8(table, vshrq_n_u8::<4>(b))),
        ]
    }
}

impl Simd for Neon {
    type Bytes = [uint8x16_t; 4];
    type Ints = [int32x4_t; 4];
    type Floats = [float32x4_t; 4];
    type Table = uint8x16_t;
    type Codes = [[uint8x16_t; 4]; 2];

    const ROWS: usize = 1;
    const OUTPUTS: usize = 1;

    intrinsics! {
        fn table(values: &[i8; 16]) -> uint8x16_t { vld1q_u8(values.as_ptr().cast()) }
        fn codes<const H: usize>(bytes: &[u8; BYTES], table: uint8x16_t) -> Self::Codes {
            if H == 2 {
                look_up(bytes, table)
            } else {
                let flip = vdupq_n_u8(0x80);
                [std::array::from_fn(|i| veorq_u8(vld1q_u8(bytes.as_ptr().add(16 * i)), flip)); 2]
            }
        }
        fn values<const H: usize>(
            codes: Self::Codes,
            _table: uint8x16_t,
            h: usize,
            n: usize
        ) -> Self::Floats {
            let up = vdupq_n_s32(24 - 8 * n as i32);
            codes[h].map(|bytes| {
                let lanes = vshlq_s32(vreinterpretq_s32_u8(bytes), up);
                vcvtq_f32_s32(vshrq_n_s32::<24>(lanes))
            })
        }

        fn unsigned_table(values: &[u8; 16]) -> Self::Bytes { [vld1q_u8(values.as_ptr()); 4] }
        fn unsigned<const H: usize>(bytes: &[u8; BYTES], table: Self::Bytes) -> [Self::Bytes; H] {
            let loaded: Self::Bytes = std::array::from_fn(|i| vld1q_u8(bytes.as_ptr().add(16 * i)));
            let mut codes = [loaded; H];
            if H == 2 {
                codes.copy_from_slice(&look_up(bytes, table[0]));
            }
            codes
        }
        fn load_bytes(from: &[i8; BYTES]) -> Self::Bytes {
            std::array::from_fn(|i| vld1q_u8(from.as_ptr().cast::<u8>().add(16 * i)))
        }
        fn dot<const H: usize>(
            start: Self::Ints,
            weights: Self::Bytes,
            x: Self::Bytes
        ) -> Self::Ints {
            std::array::from_fn(|i| {
                let (w, x) = (weights[i], vreinterpretq_s8_u8(x[i]));
                // Widened, as products of whole bytes do not fit 16 bits.
                let w = [vmovl_u8(vget_low_u8(w)), vmovl_u8(vget_high_u8(w))];
                let x = [vmovl_s8(vget_low_s8(x)), vmovl_s8(vget_high_s8(x))];
                let halves: [int32x4_t; 2] = std::array::from_fn(|j| {
                    let w = vreinterpretq_s16_u16(w[j]);
                    let low = vmull_s16(vget_low_s16(w), vget_low_s16(x[j]));
                    vpaddq_s32(low, vmull_high_s16(w, x[j]))
                });
                vaddq_s32(start[i], vpaddq_s32(halves[0], halves[1]))
            })
        }
        fn load_ints(from: &[i32; LANES]) -> Self::Ints {
            std::array::from_fn(|i| vld1q_s32(from.as_ptr().add(4 * i)))
        }
        fn convert(a: Self::Ints) -> Self::Floats { a.map(|a| vcvtq_f32_s32(a)) }

        fn splat(value: f32) -> Self::Floats { [vdupq_n_f32(value); 4] }
        fn load(from: &[f32; LANES]) -> Self::Floats {
            std::array::from_fn(|i| vld1q_f32(from.as_ptr().add(4 * i)))
        }
        fn store(a: Self::Floats, to: &mut [f32; LANES]) -> () {
            for i in 0..4 {
                vst1q_f32(to.as_mut_ptr().add(4 * i), a[i]);
            }
        }
        fn spread(from: &[f32; LANES], shift: u32) -> Self::Floats {
            match shift {
                0 => [vdupq_n_f32(from[0]); 4],
                4 => std::array::from_fn(|i| vld1q_f32(from.as_ptr().add(4 * i))),
                _ => {
                    let spread: [f32; LANES] = std::array::from_fn(|lane| from[lane << shift >> 4]);
                    std::array::from_fn(|i| vld1q_f32(spread.as_ptr().add(4 * i)))
                }
            }
        }
        fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
            std::array::from_fn(|i| vmulq_f32(a[i], b[i]))
        }
        fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
            std::array::from_fn(|i| vfmaq_f32(c[i], a[i], b[i]))
        }
        fn sum(a: Self::Floats) -> f32 {
            vaddvq_f32(vaddq_f32(vaddq_f32(a[0], a[1]), vaddq_f32(a[2], a[3])))
        }
    }
}
