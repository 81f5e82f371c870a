use std::{fmt, str::FromStr, sync::OnceLock};

use half::f16;

use crate::{Error, STATES};

/// The function from a 16-bit trellis state to a weight. A checkpoint names it by the presence of a flag tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Codebook {
    /// The oldest one; no flag tensor. Two half-precision numbers cut from one multiply-add, summed.
    ThreeInst,
    /// Flag tensor `mcg`: as [`Codebook::ThreeInst`], from a plain multiplication.
    Mcg,
    /// Flag tensor `mul1`, the default: the sum of the product's four bytes, mapped affinely.
    #[default]
    Mul1,
}

impl Codebook {
    /// All three, oldest first.
    pub const ALL: [Codebook; 3] = [Codebook::ThreeInst, Codebook::Mcg, Codebook::Mul1];

    /// The scalar that the flag tensor holds: the codebook's multiplier. `None` for 3INST, which has no flag.
    pub fn flag(self) -> Option<u32> {
        match self {
            Codebook::ThreeInst => None,
            Codebook::Mcg => Some(MCG_MULTIPLIER),
            Codebook::Mul1 => Some(MUL1_MULTIPLIER),
        }
    }

    /// The name that `quantization_config.json` and the command line use, also the flag tensor's suffix.
    pub fn name(self) -> &'static str {
        match self {
            Codebook::ThreeInst => "3inst",
            Codebook::Mcg => "mcg",
            Codebook::Mul1 => "mul1",
        }
    }

    /// The weight at `state`, bit-exact with the format.
    pub fn value(self, state: u16) -> f16 {
        let s = u32::from(state);
        match self {
            Codebook::ThreeInst => sum_of_halves(
                s.wrapping_mul(THREE_INST_MULTIPLIER)
                    .wrapping_add(THREE_INST_ADDEND),
            ),
            Codebook::Mcg => sum_of_halves(s.wrapping_mul(MCG_MULTIPLIER)),
            Codebook::Mul1 => {
                let bytes: u32 = s
                    .wrapping_mul(MUL1_MULTIPLIER)
                    .to_le_bytes()
                    .iter()
                    .map(|&b| u32::from(b))
                    .sum();
                // Every term is a multiple of 2^-18 below 2^22 of them, so the f32 result is exact and the
                // only rounding is the one to f16, as in the format's fused multiply-add.
                f16::from_f32((1024 + bytes) as f32 * MUL1_SCALE + MUL1_OFFSET)
            }
        }
    }

    /// All 65,536 weights, indexed by state; computed once.
    pub fn table(self) -> &'static [f32; STATES] {
        static TABLES: [OnceLock<Box<[f32; STATES]>>; 3] = [const { OnceLock::new() }; 3];
        TABLES[self as usize].get_or_init(|| {
            let mut table = Box::new([0.0; STATES]);
            for (state, value) in (0..=u16::MAX).zip(table.iter_mut()) {
                *value = self.value(state).to_f32();
            }
            table
        })
    }
}

/// 3INST's multiplier.
pub(crate) const THREE_INST_MULTIPLIER: u32 = 89_226_354;
/// 3INST's addend.
pub(crate) const THREE_INST_ADDEND: u32 = 64_248_484;
/// MCG's multiplier, as stored in its flag tensor.
pub const MCG_MULTIPLIER: u32 = 0xCBAC_1FED;
/// MUL1's multiplier, as stored in its flag tensor.
pub const MUL1_MULTIPLIER: u32 = 0x83DC_D12D;
/// MUL1's step per unit of the byte sum: the half 0x1EEE.
pub const MUL1_SCALE: f32 = 1774.0 / 262_144.0;
/// MUL1's offset, applied to `1024 + byte sum`: the half 0xC931.
pub const MUL1_OFFSET: f32 = -10.382_812_5;

/// 3INST and MCG: keep sign and mantissa of both halves, force the exponents near one, add in half precision.
fn sum_of_halves(x: u32) -> f16 {
    let x = (x & 0x8FFF_8FFF) ^ 0x3B60_3B60;
    f16::from_bits(x as u16) + f16::from_bits((x >> 16) as u16)
}

impl fmt::Display for Codebook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codebook {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Codebook::ALL
            .into_iter()
            .find(|c| c.name() == name)
            .ok_or_else(|| Error::UnknownCodebook(name.to_owned()))
    }
}
