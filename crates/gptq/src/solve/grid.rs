use treillage_linalg::lanes::Lanes;

use crate::{IntBits, e2m1};

/// Rounding to the numbers that a weight can be, sixteen at a time: what [`int`](crate::int) and [`e2m1`] say, in vectors.
pub(crate) trait Grid: Copy + Send + Sync {
    /// What `x`, in units of its scale, is rounded to, and its code; `zero` is the code of zero.
    fn round<L: Lanes>(self, lanes: L, x: L::Floats, zero: L::Floats) -> (L::Floats, L::Floats);
}

/// `1.5 · 2²³`, whose last bit is worth 1: adding it rounds to a whole number, ties to even.
const ROUNDER: f32 = 12_582_912.0;

/// Integer codes from 0 to `top`.
#[derive(Clone, Copy)]
pub(crate) struct Integers {
    top: f32,
}

impl Integers {
    pub(crate) fn new(bits: IntBits) -> Self {
        Self {
            top: (bits.levels() - 1) as f32,
        }
    }
}

impl Grid for Integers {
    #[inline(always)]
    fn round<L: Lanes>(self, lanes: L, x: L::Floats, zero: L::Floats) -> (L::Floats, L::Floats) {
        let low = lanes.sub(lanes.splat(0.0), zero);
        let high = lanes.sub(lanes.splat(self.top), zero);
        let rounder = lanes.splat(ROUNDER);
        let clipped = lanes.min(lanes.max(x, low), high);
        let value = lanes.sub(lanes.add(clipped, rounder), rounder);
        (value, lanes.add(value, zero))
    }
}

/// Four-bit floats.
#[derive(Clone, Copy)]
pub(crate) struct FourBitFloats;

impl Grid for FourBitFloats {
    #[inline(always)]
    fn round<L: Lanes>(self, lanes: L, x: L::Floats, _: L::Floats) -> (L::Floats, L::Floats) {
        const SIGN: u32 = 1 << 31;
        const EXPONENT: u32 = 0xFF << 23;
        let a = lanes.min(lanes.and(x, !SIGN), lanes.splat(e2m1::MAX));
        // The step is half the power of two below, but never less than a half.
        let power = lanes.and(lanes.max(a, lanes.splat(1.0)), EXPONENT);
        let rounder = lanes.mul(power, lanes.splat(0.5 * ROUNDER));
        let a = lanes.sub(lanes.add(a, rounder), rounder);
        let value = lanes.or(a, lanes.and(x, SIGN));
        // Through the eight magnitudes runs a curve of three lines, of which the lowest counts.
        let steps = lanes.add(a, a);
        let steps = lanes.min(steps, lanes.add(a, lanes.splat(2.0)));
        let halves = lanes.add(lanes.mul(a, lanes.splat(0.5)), lanes.splat(4.0));
        let steps = lanes.min(steps, halves);
        // The least magnitude is a half; 8 for whatever is negative and not zero.
        let sign = lanes.mul(value, lanes.splat(-16.0));
        let sign = lanes.max(lanes.min(sign, lanes.splat(8.0)), lanes.splat(0.0));
        (value, lanes.add(steps, sign))
    }
}

#[cfg(test)]
mod tests {
    use treillage_linalg::lanes::{Isa, Kernel, LANES};

    use super::*;
    use crate::int;

    struct Round<G>(G, [f32; LANES], f32);

    impl<G: Grid> Kernel for Round<G> {
        type Output = ([f32; LANES], [u8; LANES]);

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> Self::Output {
            let Self(grid, x, zero) = self;
            let (value, code) = grid.round(lanes, lanes.load(&x), lanes.splat(zero));
            let mut values = x;
            lanes.store(value, &mut values);
            (values, lanes.to_bytes(code))
        }
    }

    /// Everything in steps of 1/64, ties included, and what is extreme.
    fn inputs() -> Vec<[f32; LANES]> {
        let extreme = [
            0.0,
            -0.0,
            1e30,
            -1e30,
            f32::MIN_POSITIVE,
            -1e-40,
            f32::INFINITY,
            f32::NEG_INFINITY,
        ];
        let mut x: Vec<f32> = (-20_000..20_000).map(|i| i as f32 / 64.0).collect();
        for tie in x.clone() {
            x.extend([tie.next_up(), tie.next_down()]);
        }
        x.extend(extreme);
        x.resize(x.len().next_multiple_of(LANES), 0.0);
        x.as_chunks().0.to_vec()
    }

    #[test]
    fn vectors_round_to_integers_as_one_by_one() {
        for isa in Isa::available() {
            for (bits, zeros) in [
                (IntBits::Two, [0, 2, 3]),
                (IntBits::Three, [0, 4, 5]),
                (IntBits::Four, [0, 8, 15]),
                (IntBits::Eight, [3, 128, 255]),
            ] {
                for (zero, x) in zeros
                    .into_iter()
                    .flat_map(|z| inputs().into_iter().map(move |x| (z, x)))
                {
                    let (values, codes) = isa.run(Round(Integers::new(bits), x, f32::from(zero)));
                    for ((&x, &value), &code) in x.iter().zip(&values).zip(&codes) {
                        assert_eq!(code, int::encode(x, zero, bits), "{x} on {}", isa.name());
                        assert_eq!(value, int::decode(code, zero), "{x} on {}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn vectors_round_to_floats_as_one_by_one() {
        for isa in Isa::available() {
            for x in inputs() {
                let (values, codes) = isa.run(Round(FourBitFloats, x, 0.0));
                for ((&x, &value), &code) in x.iter().zip(&values).zip(&codes) {
                    assert_eq!(code, e2m1::encode(x), "{x} on {}", isa.name());
                    assert_eq!(value, e2m1::decode(code), "{x} on {}", isa.name());
                }
            }
        }
    }
}
