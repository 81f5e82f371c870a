use std::{fmt, str::FromStr};

use crate::{Error, e2m1, int};

/// The numbers that a weight can be, before its group's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Unsigned codes `u` of 2, 3, 4 or 8 bits, standing for `u − zero`.
    Int(IntBits),
    /// Four bits: 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives (OCP MX, "FP4").
    E2m1,
}

impl Element {
    /// Bits per weight in a file, scales apart.
    pub fn bits(self) -> usize {
        match self {
            Element::Int(bits) => bits.get(),
            Element::E2m1 => 4,
        }
    }

    /// Bits per weight in memory: codes of 2 and 3 bits are widened to nibbles.
    pub fn code_bits(self) -> usize {
        match self {
            Element::Int(IntBits::Eight) => 8,
            _ => 4,
        }
    }

    /// The code that stands for zero where no other is given.
    pub fn middle(self) -> u8 {
        match self {
            Element::Int(bits) => bits.middle(),
            Element::E2m1 => 0,
        }
    }

    /// The code of the value nearest to `x`, which is a weight divided by its scale. Only integers look at `zero`.
    #[inline]
    pub fn encode(self, x: f32, zero: u8) -> u8 {
        match self {
            Element::Int(bits) => int::encode(x, zero, bits),
            Element::E2m1 => e2m1::encode(x),
        }
    }

    /// What a code stands for, before its scale. Only integers look at `zero`.
    #[inline]
    pub fn decode(self, code: u8, zero: u8) -> f32 {
        match self {
            Element::Int(_) => int::decode(code, zero),
            Element::E2m1 => e2m1::decode(code),
        }
    }
}

/// Widths of integer codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IntBits {
    /// 4 levels.
    Two,
    /// 8 levels.
    Three,
    /// 16 levels.
    Four,
    /// 256 levels.
    Eight,
}

impl IntBits {
    /// As a number.
    pub fn get(self) -> usize {
        match self {
            IntBits::Two => 2,
            IntBits::Three => 3,
            IntBits::Four => 4,
            IntBits::Eight => 8,
        }
    }

    /// Number of codes.
    pub fn levels(self) -> usize {
        1 << self.get()
    }

    /// The code that stands for 0 in symmetric quantization.
    pub fn middle(self) -> u8 {
        1 << (self.get() - 1)
    }
}

/// A number format with its scales: what people ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Integers with a 16-bit float per group.
    Int(IntBits),
    /// E2M1 with an E4M3 scale per 16 weights and one f32 for the matrix.
    NvFp4,
    /// E2M1 with a power of two per 32 weights.
    MxFp4,
    /// E2M1 with a 16-bit float per group.
    Fp4,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 7] = [
        Format::Int(IntBits::Two),
        Format::Int(IntBits::Three),
        Format::Int(IntBits::Four),
        Format::Int(IntBits::Eight),
        Format::NvFp4,
        Format::MxFp4,
        Format::Fp4,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Int(IntBits::Two) => "int2",
            Format::Int(IntBits::Three) => "int3",
            Format::Int(IntBits::Four) => "int4",
            Format::Int(IntBits::Eight) => "int8",
            Format::NvFp4 => "nvfp4",
            Format::MxFp4 => "mxfp4",
            Format::Fp4 => "fp4",
        }
    }

    /// What a weight can be.
    pub fn element(self) -> Element {
        match self {
            Format::Int(bits) => Element::Int(bits),
            Format::NvFp4 | Format::MxFp4 | Format::Fp4 => Element::E2m1,
        }
    }

    /// Weights that share a scale, unless told otherwise.
    pub fn default_group(self) -> usize {
        match self {
            Format::NvFp4 => 16,
            Format::MxFp4 => 32,
            Format::Int(_) | Format::Fp4 => 128,
        }
    }

    /// Whether another group than [`Format::default_group`] is still this format.
    pub fn has_free_group(self) -> bool {
        matches!(self, Format::Int(_) | Format::Fp4)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Format::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| Error::UnknownFormat(name.to_owned()))
    }
}
