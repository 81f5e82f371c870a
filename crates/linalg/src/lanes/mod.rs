//! Sixteen floats at a time: the vector operations that this crate's products and the sweep of GPTQ are written in.
//!
//! A [`Kernel`] is written once, over any [`Lanes`], and [`Isa::run`] runs it with the instructions of this machine. A value of
//! a type that implements [`Lanes`] exists only where the machine has its instructions, so kernels need no `unsafe`.
//! Instructions are enabled for the body of [`Isa::run`] and what is inlined into it, so everything that a kernel's inner loops
//! call with its lanes must be `#[inline(always)]`, and no closure.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use isa::Isa;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use portable::Portable;

/// Floats of a vector.
pub const LANES: usize = 16;

/// Work written over any instruction set.
pub trait Kernel {
    /// What it gives.
    type Output;

    /// Does the work. Implementations are `#[inline(always)]`.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Sixteen floats in the registers of one instruction set.
pub trait Lanes: Copy + Send + Sync {
    /// The floats.
    type Floats: Copy;

    /// Whether 16 sums of 16 floats fit into registers, with some to spare.
    const WIDE: bool;

    /// The same value everywhere.
    fn splat(self, value: f32) -> Self::Floats;
    /// From memory.
    fn load(self, from: &[f32; LANES]) -> Self::Floats;
    /// To memory.
    fn store(self, a: Self::Floats, to: &mut [f32; LANES]);
    /// `a + b`
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a − b`
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a · b`
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a / b`
    fn div(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a · b + c`, rounded once where the instructions can.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The lesser; `b` if `a` is NaN.
    fn min(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The greater; `b` if `a` is NaN.
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The bits of `a` that are set in `mask` too.
    fn and(self, a: Self::Floats, mask: u32) -> Self::Floats;
    /// The bits that are set in `a` or `b`.
    fn or(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Says that this memory will be needed soon; nothing where there is no instruction for it.
    #[inline(always)]
    fn prefetch(self, _: &[f32; LANES]) {}
    /// Whole numbers between 0 and 255 as bytes.
    fn to_bytes(self, a: Self::Floats) -> [u8; LANES];
}

/// Methods that are intrinsics of the implementing type's instruction set.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! intrinsics {
    ($(fn $name:ident($($argument:ident: $of:ty),*) -> $gives:ty $body:block)*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: $of),*) -> $gives {
            // SAFETY: a value of the implementing type exists only where the CPU has its instructions, and memory is
            // reached through references to as many values as are read or written.
            unsafe { $body }
        }
    )*};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use intrinsics;
