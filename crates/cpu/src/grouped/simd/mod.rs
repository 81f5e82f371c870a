//! The vector operations that kernels over grouped codes are written in.
//!
//! As in `treillage_trellis::lanes`: a [`Work`] is written once, over any [`Simd`], and [`run`] runs it with the instructions of
//! an [`Isa`]. A value of a type that implements [`Simd`] exists only where the machine has its instructions, so work needs
//! no `unsafe`; everything that its inner loops call is `#[inline(always)]`, and no closure.
//!
//! # Lanes
//! Codes are read 64 bytes at a time, as 16 lanes of four bytes. A byte holds `H` codes: two nibbles, the low one first,
//! or a single code. Code `h` of byte `n` of lane `d` belongs to input `4 H d + H n + h` of those that the 64 bytes are for: the
//! inputs of a lane are neighbours, and a group of a multiple of `4 H` weights is whole lanes.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(not(target_arch = "aarch64"))]
mod portable;

#[cfg(target_arch = "x86_64")]
use treillage_trellis::SimdLevel;
use treillage_trellis::lanes::Isa;

/// Lanes of a vector.
pub(super) const LANES: usize = 16;
/// Bytes of a lane.
pub(super) const LANE_BYTES: usize = 4;
/// Bytes of a vector.
pub(super) const BYTES: usize = LANES * LANE_BYTES;

/// Work written over any instruction set.
pub(super) trait Work {
    /// Does it. Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S);
}

/// Does `work` with the instructions of `isa`.
pub(super) fn run(isa: Isa, work: impl Work) {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 => avx512::run(isa, work),
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 => avx2::run(isa, work),
        #[cfg(target_arch = "aarch64")]
        _ => work.run(neon::Neon),
        #[cfg(not(target_arch = "aarch64"))]
        _ => work.run(portable::Portable),
    }
}

/// Codes, activations and sums in the registers of one instruction set. `H` is the number of codes in a byte.
pub(super) trait Simd: Copy {
    /// 64 bytes.
    type Bytes: Copy;
    /// 16 signed integers.
    type Ints: Copy;
    /// 16 f32.
    type Floats: Copy;
    /// What each of 16 nibbles stands for.
    type Table: Copy;
    /// 64 bytes of codes, ready for [`Simd::values`].
    type Codes: Copy;

    /// Rows of activations whose sums fit the registers.
    const ROWS: usize;
    /// Outputs whose sums do as well, for two rows.
    const OUTPUTS: usize;

    /// A table for [`Simd::values`].
    fn table(self, values: &[i8; 16]) -> Self::Table;
    /// Codes for [`Simd::values`].
    fn codes<const H: usize>(self, bytes: &[u8; BYTES], table: Self::Table) -> Self::Codes;
    /// What code `h` of byte `n` of each lane stands for: the table says it of nibbles, and a byte `b` is `b − 128`.
    fn values<const H: usize>(
        self,
        codes: Self::Codes,
        table: Self::Table,
        h: usize,
        n: usize,
    ) -> Self::Floats;

    /// A table for [`Simd::unsigned`].
    fn unsigned_table(self, values: &[u8; 16]) -> Self::Bytes;
    /// The codes `h` of all bytes: nibbles as the table says, bytes as they are.
    fn unsigned<const H: usize>(self, bytes: &[u8; BYTES], table: Self::Bytes) -> [Self::Bytes; H];
    /// Bytes in order.
    fn load_bytes(self, from: &[i8; BYTES]) -> Self::Bytes;
    /// `start` plus, lane by lane, the four products of unsigned `weights` and signed `x`. Weights of two to a byte are at
    /// most 31, and no `x` is −128.
    fn dot<const H: usize>(
        self,
        start: Self::Ints,
        weights: Self::Bytes,
        x: Self::Bytes,
    ) -> Self::Ints;
    /// Lanes in order.
    fn load_ints(self, from: &[i32; LANES]) -> Self::Ints;
    /// As floats.
    fn convert(self, a: Self::Ints) -> Self::Floats;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::Floats;
    /// Lanes in order.
    fn load(self, from: &[f32; LANES]) -> Self::Floats;
    /// Writes the lanes in order.
    fn store(self, a: Self::Floats, to: &mut [f32; LANES]);
    /// The first `1 << shift` values, each in as many neighbouring lanes.
    fn spread(self, from: &[f32; LANES], shift: u32) -> Self::Floats;
    /// `a × b`.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a × b + c`.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The sum of the lanes.
    fn sum(self, a: Self::Floats) -> f32;
}

/// Methods that are intrinsics of the implementing type's instruction set.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! intrinsics {
    ($(fn $name:ident $(<const $h:ident: usize>)? ($($argument:ident: $of:ty),*) -> $gives:ty $body:block)*) => {$(
        #[inline(always)]
        fn $name $(<const $h: usize>)? (self, $($argument: $of),*) -> $gives {
            // SAFETY: a value of the implementing type exists only where the CPU has its instructions; what is read and
            // written is as long as its type says.
            unsafe { $body }
        }
    )*};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use intrinsics;
