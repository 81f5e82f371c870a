use std::arch::aarch64::*;

use super::ring::{Ring, thread_start, upper_offset, window_shift};
use super::{LANES, Lanes, Vectors, intrinsics};

/// NEON, which every AArch64 has; a vector is four registers.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// Always there.
    pub(super) fn new() -> Self {
        Self(())
    }
}

impl Lanes for Neon {
    /// The 64 bits of each thread that hold elements 0, 1, 4 and 5, then those that hold the others.
    type Group = [[uint64x2_t; 4]; 2];

    #[inline(always)]
    fn stage<const K: usize>(self, words: &[u16], ring: &mut Ring) {
        ring.fill::<K>(words);
    }

    #[inline(always)]
    fn group<const K: usize>(self, _: &[u16], ring: &Ring, group: usize) -> Self::Group {
        let runs = |offset| std::array::from_fn(|i| runs::<K>(ring, 8 * group + 2 * i, offset));
        [runs(upper_offset(K)), runs(0)]
    }

    #[inline(always)]
    fn products<const K: usize>(
        self,
        group: Self::Group,
        vector: usize,
        multiplier: u32,
    ) -> Self::Ints {
        let down = -(window_shift(K, vector) as i64);
        let up = 32 - window_shift(K, vector + 4) as i64;
        group[vector / 2].map(|runs| {
            // SAFETY: NEON is part of every AArch64.
            unsafe {
                let low = vreinterpretq_u32_u64(vshlq_u64(runs, vdupq_n_s64(down)));
                let high = vreinterpretq_u32_u64(vshlq_u64(runs, vdupq_n_s64(up)));
                let first = vreinterpretq_u32_u64(vdupq_n_u64(0xFFFF_FFFF));
                let states = vandq_u32(vbslq_u32(first, low, high), vdupq_n_u32(0xFFFF));
                vmulq_u32(states, vdupq_n_u32(multiplier))
            }
        })
    }
}

impl Vectors for Neon {
    type Ints = [uint32x4_t; 4];
    type Floats = [float32x4_t; 4];

    const ROWS: usize = 1;
    const FUSES: bool = true;

    #[inline(always)]
    fn byte_factor(factor: i8) -> u32 {
        i32::from(factor) as u32
    }

    intrinsics! {
        fn splat(value: u32) -> Self::Ints { [vdupq_n_u32(value); 4] }
        fn load(from: &[u32; LANES]) -> Self::Ints {
            std::array::from_fn(|i| vld1q_u32(from.as_ptr().add(4 * i)))
        }
        fn load_twice(from: &[u32; LANES / 2]) -> Self::Ints {
            let (low, high) = (vld1q_u32(from.as_ptr()), vld1q_u32(from.as_ptr().add(4)));
            [low, high, low, high]
        }
        fn store(a: Self::Ints, to: &mut [u32; LANES]) -> () {
            for i in 0..4 {
                vst1q_u32(to.as_mut_ptr().add(4 * i), a[i]);
            }
        }
        fn add(a: Self::Ints, b: Self::Ints) -> Self::Ints {
            std::array::from_fn(|i| vaddq_u32(a[i], b[i]))
        }
        fn mask(a: Self::Ints, mask: Self::Ints) -> Self::Ints {
            std::array::from_fn(|i| vandq_u32(a[i], mask[i]))
        }
        fn mask_flip(a: Self::Ints, mask: Self::Ints, flip: Self::Ints) -> Self::Ints {
            std::array::from_fn(|i| veorq_u32(vandq_u32(a[i], mask[i]), flip[i]))
        }
        fn shift_up(a: Self::Ints) -> Self::Ints { a.map(|a| vshlq_n_u32::<16>(a)) }
        fn shift_down(a: Self::Ints) -> Self::Ints {
            a.map(|a| vreinterpretq_u32_s32(vshrq_n_s32::<3>(vreinterpretq_s32_u32(a))))
        }
        fn byte_sums(start: Self::Ints, a: Self::Ints) -> Self::Ints {
            std::array::from_fn(|i| vpadalq_u16(start[i], vpaddlq_u8(vreinterpretq_u8_u32(a[i]))))
        }
        fn dot_bytes(start: Self::Ints, a: Self::Ints, factors: Self::Ints) -> Self::Ints {
            std::array::from_fn(|i| {
                let sums = vpaddlq_u16(vpaddlq_u8(vreinterpretq_u8_u32(a[i])));
                vmlaq_u32(start[i], sums, factors[i])
            })
        }
        fn dot_halves(start: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints {
            std::array::from_fn(|i| {
                let (a, b) = (vreinterpretq_s16_u32(a[i]), vreinterpretq_s16_u32(b[i]));
                let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
                let sums = vpaddq_s32(low, vmull_high_s16(a, b));
                vaddq_u32(start[i], vreinterpretq_u32_s32(sums))
            })
        }

        fn convert(a: Self::Ints) -> Self::Floats {
            a.map(|a| vcvtq_f32_s32(vreinterpretq_s32_u32(a)))
        }
        fn floats_of_bits(a: Self::Ints) -> Self::Floats { a.map(|a| vreinterpretq_f32_u32(a)) }
        fn bits_of_floats(a: Self::Floats) -> Self::Ints { a.map(|a| vreinterpretq_u32_f32(a)) }
        fn splat_float(value: f32) -> Self::Floats { [vdupq_n_f32(value); 4] }
        fn load_floats(from: &[f32; LANES]) -> Self::Floats {
            std::array::from_fn(|i| vld1q_f32(from.as_ptr().add(4 * i)))
        }
        fn load_floats_twice(from: &[f32; LANES / 2]) -> Self::Floats {
            let (low, high) = (vld1q_f32(from.as_ptr()), vld1q_f32(from.as_ptr().add(4)));
            [low, high, low, high]
        }
        fn store_floats(a: Self::Floats, to: &mut [f32; LANES]) -> () {
            for i in 0..4 {
                vst1q_f32(to.as_mut_ptr().add(4 * i), a[i]);
            }
        }
        fn add_floats(a: Self::Floats, b: Self::Floats) -> Self::Floats {
            std::array::from_fn(|i| vaddq_f32(a[i], b[i]))
        }
        fn mul_floats(a: Self::Floats, b: Self::Floats) -> Self::Floats {
            std::array::from_fn(|i| vmulq_f32(a[i], b[i]))
        }
        fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
            std::array::from_fn(|i| vfmaq_f32(c[i], a[i], b[i]))
        }
    }
}

/// The 64-bit runs of two threads, each `offset` bytes after the thread's start.
#[inline(always)]
fn runs<const K: usize>(ring: &Ring, thread: usize, offset: usize) -> uint64x2_t {
    // The runs of two neighbours lie in 16 bytes, that of the later one first.
    let bytes: &[u8; 16] = ring.run(thread_start(K, thread + 1) + offset);
    let order: [u8; 16] = std::array::from_fn(|i| (i % 8 + if i < 8 { K } else { 0 }) as u8);
    // SAFETY: NEON is part of every AArch64; both are 16 bytes.
    unsafe {
        let runs = vqtbl1q_u8(vld1q_u8(bytes.as_ptr()), vld1q_u8(order.as_ptr()));
        vreinterpretq_u64_u8(runs)
    }
}
