//! Sixteen weights at a time: the vector operations that decoders and kernels over packed words are written in.
//!
//! A [`Kernel`] is written once, over any [`Lanes`], and [`Isa::run`] runs it with the instructions of this machine. A
//! value of a type that implements [`Lanes`] exists only where the machine has its instructions, so kernels need no
//! `unsafe`. Everything in a kernel's inner loops must be `#[inline(always)]`: instructions are enabled for the body of
//! [`Isa::run`] and what is inlined into it.
//!
//! # Lane order
//! The trellis position `8 t + e` of a weight is element `e` of *thread* `t` (see [`tile`](crate::tile)). A tile is decoded as 4
//! groups of 4 vectors of 16 weights. Lane `2 i + h` of vector `j` of group `g` is element `j + 4 h` of thread `8 g + i`:
//!
//! - its tile row is `2 (i mod 4) + j mod 2 + 8 (j / 2)`: it depends on `j` and the lane, not on the group;
//! - its tile column is `2 g + i / 4 + 8 h`: it depends on `g` and the lane, not on `j`.
//!
//! So the four vectors of a group add up, lane by lane, into partial sums of four columns, once each is multiplied by the
//! activations of its rows; those are one pattern of eight lanes, twice.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod code;
#[cfg(target_arch = "x86_64")]
mod gather;
mod isa;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod ring;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use code::{Code, Mcg, Mul1, ThreeInst};
pub use isa::Isa;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use portable::Portable;
pub use ring::Ring;

/// Lanes of a vector.
pub const LANES: usize = 16;
/// Groups of a tile; vectors of a group.
pub const GROUPS: usize = 4;

/// Work written over any instruction set.
pub trait Kernel {
    /// What it gives.
    type Output;

    /// Does the work. Implementations are `#[inline(always)]`.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Vectors of sixteen 32-bit lanes, in the registers of one instruction set.
///
/// `K` is the number of bits per weight, 1 to 8, everywhere.
pub trait Lanes: Copy + Send + Sync + 'static {
    /// Sixteen integers; arithmetic wraps.
    type Ints: Copy;
    /// Sixteen f32.
    type Floats: Copy;
    /// The bits of the 64 weights of one group.
    type Group: Copy;

    /// Makes one tile's words ready for [`Lanes::group`]: where the instructions cannot gather from the words as they
    /// are stored, a copy in `ring` that they can gather from.
    fn stage<'a, const K: usize>(self, words: &'a [u16], ring: &'a mut Ring) -> &'a [u8];
    /// The bits of group `group` of a staged tile.
    fn group<const K: usize>(self, staged: &[u8], group: usize) -> Self::Group;
    /// The states of vector `vector` of a group, times `multiplier`, modulo 2³².
    fn products<const K: usize>(
        self,
        group: Self::Group,
        vector: usize,
        multiplier: u32,
    ) -> Self::Ints;

    /// `value` in every lane.
    fn splat(self, value: u32) -> Self::Ints;
    /// `a + b`.
    fn add(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// `a & mask ^ flip`.
    fn mask_flip(self, a: Self::Ints, mask: Self::Ints, flip: Self::Ints) -> Self::Ints;
    /// `a << 16`.
    fn shift_up(self, a: Self::Ints) -> Self::Ints;
    /// `a >> 3`, the sign repeated.
    fn shift_down(self, a: Self::Ints) -> Self::Ints;
    /// `start` plus the four bytes of `a`, which are unsigned.
    fn byte_sums(self, start: Self::Ints, a: Self::Ints) -> Self::Ints;

    /// The signed integers as floats, rounded to nearest even.
    fn to_floats(self, a: Self::Ints) -> Self::Floats;
    /// The bits of floats.
    fn floats_of_bits(self, a: Self::Ints) -> Self::Floats;
    /// Floats as bits.
    fn bits_of_floats(self, a: Self::Floats) -> Self::Ints;
    /// `value` in every lane.
    fn splat_float(self, value: f32) -> Self::Floats;
    /// `a + b`.
    fn add_floats(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a × b + c`, rounded once or twice.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Writes the lanes in order.
    fn store(self, a: Self::Floats, to: &mut [f32; LANES]);

    /// `a` rounded to half precision, to nearest even, kept as f32; for magnitudes in the normal range of a half, and
    /// for multiples of its smallest subnormal below.
    #[inline(always)]
    fn round_to_half(self, a: Self::Floats) -> Self::Floats {
        // 1.5 · 2¹³ times the power of two below |a| puts the last bit of a half's significand at the last bit of f32's.
        let zero = self.splat(0);
        let exponent = self.floats_of_bits(self.mask_flip(
            self.bits_of_floats(a),
            self.splat(0x7F80_0000),
            zero,
        ));
        let shifted = self.mul_add(exponent, self.splat_float(12288.0), a);
        self.mul_add(exponent, self.splat_float(-12288.0), shifted)
    }
}

/// Methods that are intrinsics of the implementing type's instruction set.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! intrinsics {
    ($(fn $name:ident($($argument:ident: $of:ty),*) -> $gives:ty $body:block)*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: $of),*) -> $gives {
            // SAFETY: a value of the implementing type exists only where the CPU has its instructions.
            unsafe { $body }
        }
    )*};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use intrinsics;
