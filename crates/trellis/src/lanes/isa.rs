use super::Kernel;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};
use crate::SimdLevel;

/// The instructions that kernels run with on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Choice);

#[derive(Clone, Copy, Debug)]
enum Choice {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(super::Neon),
    #[cfg(not(target_arch = "aarch64"))]
    Portable(super::Portable),
}

impl Isa {
    /// The fastest of this machine.
    pub fn best() -> Self {
        Self::at_most(SimdLevel::Avx512)
    }

    /// The fastest of this machine that is not above `level`.
    ///
    /// AVX-512 counts only along with VBMI and VNNI, AVX2 only along with FMA.
    pub fn at_most(level: SimdLevel) -> Self {
        let mut levels = SimdLevel::ALL.into_iter().rev().filter(|&l| l <= level);
        Self(levels.find_map(Choice::of).unwrap_or_else(Choice::baseline))
    }

    /// Each choice that this machine has, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        SimdLevel::ALL.into_iter().filter_map(Choice::of).map(Self)
    }

    /// The level that this is.
    pub fn level(self) -> SimdLevel {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(_) => SimdLevel::Avx512,
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(_) => SimdLevel::Avx2,
            #[cfg(target_arch = "aarch64")]
            Choice::Neon(_) => SimdLevel::Portable,
            #[cfg(not(target_arch = "aarch64"))]
            Choice::Portable(_) => SimdLevel::Portable,
        }
    }

    /// Runs a kernel with these instructions.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(lanes) => lanes.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(lanes) => lanes.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Choice::Neon(lanes) => kernel.run(lanes),
            #[cfg(not(target_arch = "aarch64"))]
            Choice::Portable(lanes) => kernel.run(lanes),
        }
    }
}

impl Choice {
    /// What this machine has of a level.
    fn of(level: SimdLevel) -> Option<Self> {
        match level {
            SimdLevel::Portable => Some(Self::baseline()),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 => Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 => Avx512::detect().map(Self::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            SimdLevel::Avx2 | SimdLevel::Avx512 => None,
        }
    }

    /// What every machine of the target has.
    fn baseline() -> Self {
        #[cfg(target_arch = "aarch64")]
        return Self::Neon(super::Neon::new());
        #[cfg(not(target_arch = "aarch64"))]
        Self::Portable(super::Portable::new())
    }
}
