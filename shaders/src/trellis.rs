//! Trellis kernels, written out for a rate, a codebook and a number of rows.

mod codes;
mod few;
mod gemv;
mod lanes;
mod whole;

pub use codes::FLIP;
pub use few::TrellisFew;
pub use gemv::TrellisGemv;
pub use lanes::{Activations, Splits};
pub use whole::{TrellisDecode, TrellisMatmul};

use crate::linear::lines;

/// How states become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codebook {
    /// Two halves cut from a multiply-add.
    ThreeInst,
    /// Two halves cut from a product.
    Mcg,
    /// The sum of a product's bytes.
    Mul1,
}

/// Some of the rates from 1 to 8 bits per weight, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rates(u8);

impl Rates {
    /// This one.
    pub fn one(bits: usize) -> Self {
        Self(1 << (bits - 1))
    }

    /// These, and `bits`.
    #[must_use]
    pub fn and(self, bits: usize) -> Self {
        Self(self.0 | 1 << (bits - 1))
    }

    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (1..=8).filter(move |bits| self.0 >> (bits - 1) & 1 != 0)
    }

    fn highest(self) -> usize {
        8 - self.0.leading_zeros() as usize
    }

    /// Whether it is a single one.
    fn is_one(self) -> bool {
        self.0.is_power_of_two()
    }

    /// Fours of words of a pair of rows of tiles of a matrix of kind `kind`, as text.
    fn pair_fours(self, kind: &str) -> String {
        match self.is_one() {
            true => format!("{}u", 32 * self.highest()),
            // Where headers say what kind they are of.
            false => format!("32u * (({kind} >> 4u) & 15u)"),
        }
    }

    /// `text` of the only rate, or of each where the header says which it is.
    fn switch(self, text: impl Fn(usize) -> String) -> String {
        let highest = self.highest();
        if self.is_one() {
            return text(highest);
        }
        let cases = self.iter().map(|bits| match bits == highest {
            true => format!("default: {{\n{}\n}}", text(bits)),
            false => format!("case {bits}u: {{\n{}\n}}", text(bits)),
        });
        format!("switch pair_fours / 32u {{\n{}\n}}", lines(cases))
    }
}
