//! Sixteen f32 lanes on any machine.
//!
//! A kernel is written once over [`Simd`] and compiled for each instruction set; [`dispatch`] picks the best one that
//! the processor has. All of them add in the same order, so that their results differ only where fused
//! multiply-adds do.

mod exp;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::{bf16, f16};

pub(crate) use exp::{exp, silu};

/// Lanes of a [`Simd::Vector`].
pub(crate) const LANES: usize = 16;

/// An instruction set, as a token that only [`dispatch`] makes, after it has looked whether the processor has it.
pub(crate) trait Simd: Copy {
    /// Sixteen f32 lanes.
    type Vector: Copy;

    /// Whether sixteen accumulators, four operands and a temporary fit the registers.
    const MANY_REGISTERS: bool;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::Vector;

    /// The lanes from memory.
    fn load(self, x: &[f32; LANES]) -> Self::Vector;

    /// The lanes from memory, widened.
    fn load_f16(self, x: &[f16; LANES]) -> Self::Vector;

    /// The lanes from memory, widened.
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::Vector;

    /// The lanes to memory.
    fn store(self, v: Self::Vector, to: &mut [f32; LANES]);

    /// `a × b`.
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// `a × b + c`, fused where the instruction set has that.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// The sum of all lanes: halves onto halves, four times.
    fn sum(self, v: Self::Vector) -> f32;
}

/// A computation over [`Simd`].
pub(crate) trait Kernel {
    /// What it gives.
    type Output;

    /// Runs it. Must be `#[inline(always)]`, as everything it calls with `simd`, and pass `simd` to no closure: only
    /// then is all of it compiled for the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the best instruction set of this processor.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = x86::Avx512::detect() {
            return simd.run(kernel);
        }
        if let Some(simd) = x86::Avx2::detect() {
            return simd.run(kernel);
        }
    }
    kernel.run(portable::Portable)
}

/// A type that dense weights and cached keys are stored in.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// Sixteen of them as f32.
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::Vector;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[f32; LANES]) -> S::Vector {
        simd.load(x)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[f16; LANES]) -> S::Vector {
        simd.load_f16(x)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[bf16; LANES]) -> S::Vector {
        simd.load_bf16(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `kernel` with every instruction set of this processor.
    fn on_each<K: Kernel + Clone>(kernel: K) -> Vec<K::Output> {
        let mut outputs = vec![kernel.clone().run(portable::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            outputs.extend(x86::Avx2::detect().map(|simd| simd.run(kernel.clone())));
            outputs.extend(x86::Avx512::detect().map(|simd| simd.run(kernel)));
        }
        outputs
    }

    #[derive(Clone)]
    struct Lanes;

    impl Kernel for Lanes {
        type Output = ([f32; LANES], [f32; LANES], f32);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let mut f16s = [f16::ZERO; LANES];
            let mut bf16s = [bf16::ZERO; LANES];
            for i in 0..LANES {
                f16s[i] = f16::from_f32(i as f32 - 7.25);
                bf16s[i] = bf16::from_f32(0.5 * i as f32);
            }
            let (a, b) = (simd.load_f16(&f16s), simd.load_bf16(&bf16s));
            let (mut sums, mut products) = ([0.0; LANES], [0.0; LANES]);
            simd.store(simd.mul_add(a, b, simd.splat(1.0)), &mut sums);
            simd.store(simd.mul(a, b), &mut products);
            (sums, products, simd.sum(a))
        }
    }

    #[test]
    fn every_instruction_set_computes_the_same() {
        let expected = |i: usize| (i as f32 - 7.25) * 0.5 * i as f32;
        for (sums, products, sum) in on_each(Lanes) {
            for i in 0..LANES {
                assert_eq!(products[i], expected(i));
                assert_eq!(sums[i], expected(i) + 1.0);
            }
            assert_eq!(sum, 4.0);
        }
    }
}
