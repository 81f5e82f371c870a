use super::{LANES, Lanes};

/// Plain Rust, laid out so that the compiler can vectorise it for any target. Products are rounded before they are added:
/// a fused operation without an instruction for it is a call to a library.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

type Floats = [f32; LANES];

#[inline(always)]
fn zip(a: Floats, b: Floats, op: impl Fn(f32, f32) -> f32) -> Floats {
    let mut c = a;
    for i in 0..LANES {
        c[i] = op(a[i], b[i]);
    }
    c
}

impl Lanes for Portable {
    type Floats = Floats;

    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> Floats {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Floats {
        *from
    }

    #[inline(always)]
    fn store(self, a: Floats, to: &mut [f32; LANES]) {
        *to = a;
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn and(self, a: Floats, mask: u32) -> Floats {
        a.map(|a| f32::from_bits(a.to_bits() & mask))
    }

    #[inline(always)]
    fn or(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| f32::from_bits(a.to_bits() | b.to_bits()))
    }

    #[inline(always)]
    fn to_bytes(self, a: Floats) -> [u8; LANES] {
        a.map(|a| a as u8)
    }
}
