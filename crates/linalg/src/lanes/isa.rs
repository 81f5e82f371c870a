#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};
use super::{Kernel, Portable};

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
    Portable(Portable),
}

impl Isa {
    /// The fastest of this machine.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(lanes) = Avx512::detect() {
            return Self(Choice::Avx512(lanes));
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(lanes) = Avx2::detect() {
            return Self(Choice::Avx2(lanes));
        }
        #[cfg(target_arch = "aarch64")]
        if let Some(lanes) = super::Neon::detect() {
            return Self(Choice::Neon(lanes));
        }
        Self(Choice::Portable(Portable))
    }

    /// Each choice that this machine has, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let choices = [
            Some(Choice::Portable(Portable)),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Choice::Avx2),
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(Choice::Avx512),
            #[cfg(target_arch = "aarch64")]
            super::Neon::detect().map(Choice::Neon),
        ];
        choices.into_iter().flatten().map(Self)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Choice::Neon(_) => "neon",
            Choice::Portable(_) => "portable",
        }
    }

    /// Runs a kernel with these instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(lanes) => lanes.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(lanes) => lanes.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Choice::Neon(lanes) => kernel.run(lanes),
            Choice::Portable(lanes) => kernel.run(lanes),
        }
    }
}
