//! The scales that a file can hold, as the integers they are stored as: for positive floats of any type these ascend
//! with their value, so that neighbours are neighbours.

use std::ops::RangeInclusive;

use half::{bf16, f16};

use crate::{Error, MxRule, e4m3, e8m0};

/// Positive scales of one type. A *rung* is the bits that a scale is stored as.
pub(super) trait Ladder: Sync {
    /// Distance between rungs that are tried first.
    const STEP: u32;

    /// What a rung stands for in the file, its factor of the matrix included.
    fn value(&self, rung: u32) -> f32;

    /// The rung for an ideal scale (for E2M1: a sixth of the group's largest magnitude, which is `absmax`).
    fn minmax(&self, ideal: f32, absmax: f32) -> Result<u32, Error>;

    /// The rungs worth trying around that one.
    fn span(&self, minmax: u32) -> RangeInclusive<u32>;
}

/// Half precision.
pub(super) struct F16;

impl Ladder for F16 {
    const STEP: u32 = 64;

    #[inline(always)]
    fn value(&self, rung: u32) -> f32 {
        // Shifted into place, normal or not, it lacks but the difference of the exponents' biases.
        f32::from_bits(rung << 13) * f32::from_bits((127 + 112) << 23)
    }

    fn minmax(&self, ideal: f32, _: f32) -> Result<u32, Error> {
        let scale = f16::from_f32(ideal);
        match scale.is_finite() {
            true if scale == f16::ZERO => Ok(f16::ONE.to_bits().into()),
            true => Ok(scale.to_bits().into()),
            false => Err(Error::ScaleRange(ideal)),
        }
    }

    fn span(&self, minmax: u32) -> RangeInclusive<u32> {
        around(minmax, 1024, UP, 1, f16::MAX.to_bits().into())
    }
}

/// bfloat16.
pub(super) struct Bf16;

impl Ladder for Bf16 {
    const STEP: u32 = 64;

    #[inline(always)]
    fn value(&self, rung: u32) -> f32 {
        f32::from_bits(rung << 16)
    }

    fn minmax(&self, ideal: f32, _: f32) -> Result<u32, Error> {
        let scale = bf16::from_f32(ideal);
        match scale.is_finite() {
            true if scale == bf16::ZERO => Ok(bf16::ONE.to_bits().into()),
            true => Ok(scale.to_bits().into()),
            false => Err(Error::ScaleRange(ideal)),
        }
    }

    fn span(&self, minmax: u32) -> RangeInclusive<u32> {
        around(minmax, 128, UP, 1, bf16::MAX.to_bits().into())
    }
}

/// E4M3 bytes, divided by the matrix's factor.
pub(super) struct E4m3 {
    global: f32,
    /// What the positive bytes stand for.
    values: [f32; 128],
    /// Whether scales that put the largest magnitude at 4 are worth trying.
    four_over_six: bool,
}

impl E4m3 {
    pub(super) fn new(global: f32, four_over_six: bool) -> Self {
        Self {
            global,
            values: std::array::from_fn(|byte| e4m3::decode(byte as u8) / global),
            four_over_six,
        }
    }
}

impl Ladder for E4m3 {
    const STEP: u32 = 1;

    #[inline(always)]
    fn value(&self, rung: u32) -> f32 {
        self.values[rung as usize & 127]
    }

    fn minmax(&self, ideal: f32, _: f32) -> Result<u32, Error> {
        // Byte 0 would make a group of what cannot be stored.
        Ok(e4m3::encode(ideal * self.global).max(1).into())
    }

    fn span(&self, minmax: u32) -> RangeInclusive<u32> {
        // log2 1.5, rounded up: the byte above a quarter of the largest magnitude is among them.
        let up = if self.four_over_six { 0.7 } else { UP };
        around(minmax, 8, up, 1, e4m3::MAX_BYTE.into())
    }
}

/// Powers of two, divided by FP-Quant's factor.
pub(super) struct E8m0 {
    /// What the file can hold.
    pub(super) rule: MxRule,
}

impl E8m0 {
    /// What all scales are divided by.
    pub(super) fn global(&self) -> f32 {
        match self.rule {
            MxRule::FpQuant => 3.0,
            MxRule::Ocp | MxRule::CompressedTensors => 1.0,
        }
    }
}

impl Ladder for E8m0 {
    const STEP: u32 = 1;

    #[inline(always)]
    fn value(&self, rung: u32) -> f32 {
        e8m0::decode(rung as u8) / self.global()
    }

    fn minmax(&self, _: f32, absmax: f32) -> Result<u32, Error> {
        Ok(e8m0::from_absmax(absmax, self.rule).into())
    }

    fn span(&self, minmax: u32) -> RangeInclusive<u32> {
        minmax.saturating_sub(2)..=(minmax + 1).min(254)
    }
}

/// Octaves above the scale of the largest magnitude that may still have less error: to 1.1 times.
const UP: f32 = 0.1376;
/// Octaves below: to a fifth.
const DOWN: f32 = 2.322;

fn around(minmax: u32, octave: u32, up: f32, least: u32, most: u32) -> RangeInclusive<u32> {
    let rungs = |octaves: f32| (octaves * octave as f32).ceil() as u32;
    minmax.saturating_sub(rungs(DOWN)).max(least)..=(minmax + rungs(up)).min(most)
}
