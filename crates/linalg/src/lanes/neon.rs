use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use super::{LANES, Lanes, intrinsics};

/// NEON: four registers for sixteen floats.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

type Floats = [float32x4_t; 4];

impl Neon {
    /// The instructions, if this machine has them.
    pub(super) fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

/// The same intrinsic on each register.
macro_rules! each {
    ($intrinsic:ident($($of:ident),*)) => {
        [
            $intrinsic($($of[0]),*),
            $intrinsic($($of[1]),*),
            $intrinsic($($of[2]),*),
            $intrinsic($($of[3]),*),
        ]
    };
}

impl Lanes for Neon {
    type Floats = Floats;

    const WIDE: bool = false;

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        self.select(a, b, false)
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        self.select(a, b, true)
    }

    intrinsics! {
        fn splat(value: f32) -> Floats { [vdupq_n_f32(value); 4] }
        fn load(from: &[f32; LANES]) -> Floats {
            let at = from.as_ptr();
            [vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))]
        }
        fn store(a: Floats, to: &mut [f32; LANES]) -> () {
            let at = to.as_mut_ptr();
            vst1q_f32(at, a[0]);
            vst1q_f32(at.add(4), a[1]);
            vst1q_f32(at.add(8), a[2]);
            vst1q_f32(at.add(12), a[3]);
        }
        fn add(a: Floats, b: Floats) -> Floats { each!(vaddq_f32(a, b)) }
        fn sub(a: Floats, b: Floats) -> Floats { each!(vsubq_f32(a, b)) }
        fn mul(a: Floats, b: Floats) -> Floats { each!(vmulq_f32(a, b)) }
        fn div(a: Floats, b: Floats) -> Floats { each!(vdivq_f32(a, b)) }
        fn mul_add(a: Floats, b: Floats, c: Floats) -> Floats { each!(vfmaq_f32(c, a, b)) }
        fn and(a: Floats, mask: u32) -> Floats {
            let mask = [vdupq_n_u32(mask); 4];
            let a = each!(vreinterpretq_u32_f32(a));
            let a = each!(vandq_u32(a, mask));
            each!(vreinterpretq_f32_u32(a))
        }
        fn or(a: Floats, b: Floats) -> Floats {
            let a = each!(vreinterpretq_u32_f32(a));
            let b = each!(vreinterpretq_u32_f32(b));
            let a = each!(vorrq_u32(a, b));
            each!(vreinterpretq_f32_u32(a))
        }
        fn to_bytes(a: Floats) -> [u8; LANES] {
            let a = each!(vcvtq_u32_f32(a));
            let a = each!(vmovn_u32(a));
            let low = vmovn_u16(vcombine_u16(a[0], a[1]));
            let high = vmovn_u16(vcombine_u16(a[2], a[3]));
            let mut to = [0; LANES];
            vst1q_u8(to.as_mut_ptr(), vcombine_u8(low, high));
            to
        }
    }
}

impl Neon {
    /// NEON's own minimum keeps NaN; a comparison with one is false and chooses `b`.
    #[inline(always)]
    fn select(self, a: Floats, b: Floats, greater: bool) -> Floats {
        // SAFETY: a value of this type exists only where the CPU has the instructions.
        unsafe {
            let first = if greater {
                each!(vcgtq_f32(a, b))
            } else {
                each!(vcltq_f32(a, b))
            };
            each!(vbslq_f32(first, a, b))
        }
    }
}
