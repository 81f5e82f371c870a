use std::fmt;

use crate::Error;

/// Bits per weight of one linear: the K of the EXL3 format, an integer in 1..=8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bits(u8);

impl Bits {
    /// The smallest rate of the format.
    pub const MIN: Bits = Bits(1);
    /// The largest rate of the format.
    pub const MAX: Bits = Bits(8);

    /// Every legal rate, ascending.
    pub fn all() -> impl DoubleEndedIterator<Item = Bits> + ExactSizeIterator {
        (1..=8).map(Bits)
    }

    /// `bits` as a rate.
    ///
    /// # Errors
    /// [`Error::Bits`] outside 1..=8.
    pub fn new(bits: usize) -> Result<Self, Error> {
        match bits {
            1..=8 => Ok(Self(bits as u8)),
            _ => Err(Error::Bits(bits)),
        }
    }

    /// The rate as a number.
    pub fn get(self) -> usize {
        usize::from(self.0)
    }

    /// 16-bit words that one 16×16 tile takes.
    pub fn words_per_tile(self) -> usize {
        16 * self.get()
    }

    /// Mean squared error of Gaussian weights at this rate, as a part of their variance, at their best size: what to expect of a
    /// linear before it is encoded. Of the codebook MUL1; those of the others are within some percent.
    pub fn gaussian_error(self) -> f64 {
        f64::from(crate::scale_search::GAUSSIAN[self.get() - 1].1)
    }

    /// Registers of the trellis: states that differ in the low `16 - K` bits carried to the next step.
    pub fn registers(self) -> usize {
        crate::STATES >> self.get()
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
