//! Sixteen weights at a time: the vector operations that decoders and kernels over packed words are written in.
//!
//! A [`Kernel`] is written once, over any [`Lanes`], and [`Isa::run`] runs it with the instructions of this machine. A
//! value of a type that implements [`Lanes`] exists only where the machine has its instructions, so kernels need no
//! `unsafe`. Instructions are enabled for the body of [`Isa::run`] and what is inlined into it, so everything that a
//! kernel's inner loops call with its lanes must be `#[inline(always)]`, and no closure.
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
#[cfg(not(target_arch = "aarch64"))]
mod portable;
mod ring;
mod vectors;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use code::{Code, Mcg, Mul1, ThreeInst};
pub use isa::Isa;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
#[cfg(not(target_arch = "aarch64"))]
pub use portable::Portable;
pub use ring::Ring;
pub use vectors::Vectors;

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

/// Packed words in the registers of one instruction set.
///
/// `K` is the number of bits per weight, 1 to 8, everywhere.
pub trait Lanes: Vectors {
    /// The bits of the 64 weights of one group.
    type Group: Copy;

    /// Makes one tile's words ready for [`Lanes::group`]: fills `ring` where the instructions cannot gather from the words
    /// as they are stored.
    fn stage<const K: usize>(self, words: &[u16], ring: &mut Ring);

    /// The bits of group `group` of a tile, staged in `ring`.
    fn group<const K: usize>(self, words: &[u16], ring: &Ring, group: usize) -> Self::Group;

    /// The states of vector `vector` of a group, times `multiplier`, modulo 2³².
    fn products<const K: usize>(
        self,
        group: Self::Group,
        vector: usize,
        multiplier: u32,
    ) -> Self::Ints;
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
