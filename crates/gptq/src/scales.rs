//! Scales of groups: by the largest magnitude, or by the least error among those that a file can hold.

mod grid;
mod ladder;
mod nearest;
mod search;

use std::fmt;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::{
    Config, Element, Error, Format, ScaleRule, ScaleType, Scales, e2m1, e4m3, linear::check_group,
};
use grid::{Asymmetric, Floats, Symmetric};
use ladder::{Bf16, E4m3, E8m0, F16, Ladder};
pub use nearest::round_to_nearest;
use search::LANES;

/// What a matrix's groups are multiplied by, and where their zero lies.
#[derive(Clone, PartialEq)]
pub struct GroupScales {
    /// `[out, in / group]`, row-major.
    pub scales: Scales,
    /// Asymmetric integers only: the code that stands for zero, `[out, in / group]`.
    pub zeros: Option<Vec<u8>>,
}

/// Kind and number, not all of them.
impl fmt::Debug for GroupScales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupScales")
            .field("scales", &self.scales)
            .field("zeros", &self.zeros.is_some())
            .finish()
    }
}

/// Chooses the scales, and the zeros if there are any, of `weights`, `[out, in]` row-major, as [`Config`] says.
///
/// [`ScaleRule::Minmax`] is, with `a` a group's largest magnitude and `b` bits, `2 a / (2ᵇ − 1)` for symmetric integers,
/// `(max − min) / (2ᵇ − 1)` for asymmetric ones (0 being one of the values), `a / 6` for E2M1, rounded to what the file
/// holds; [`MxRule`](crate::MxRule) says what MXFP4 does. A scale that comes out as 0 becomes 1 or, of NVFP4, the
/// smallest there is.
///
/// [`ScaleRule::Mse`] starts from there and takes the least `Σ importance · (w − Q(w))²` over scales between a fifth of
/// that one and 1.1 of it, or the four nearest powers of two; for NVFP4 with [`Config::four_over_six`] up to `a / 4`.
/// All E4M3 bytes in that span are tried; of 16-bit floats sixteen an octave and then those around the best.
///
/// `importance`, `[in]` and not negative, is how much an input counts; without it all count 1. For codes to nearest the
/// Hessian's diagonal is right. GPTQ with `H = V Vᵀ` leaves `Σ V_ii² (target − q)²`, so there it is the squares of its
/// factor's diagonal, in the order of the inputs: where inputs are of different size that is worth more than the search
/// itself.
///
/// Runs on the current rayon pool; the result does not depend on the number of threads, nor on the processor.
///
/// # Errors
/// [`Error::Group`], [`Error::Shape`], [`Error::NotFinite`], [`Error::GlobalScale`], and [`Error::ScaleRange`] for
/// weights that are too large for half precision.
pub fn choose_scales(
    weights: &[f32],
    out_features: usize,
    in_features: usize,
    config: &Config,
    importance: Option<&[f32]>,
) -> Result<GroupScales, Error> {
    check_config(config, in_features)?;
    check_weights(weights, out_features, in_features)?;
    if let Some(importance) = importance {
        check_len("importance of inputs", in_features, importance.len())?;
    }
    let matrix = search::Matrix {
        weights,
        in_features,
        group: config.group,
        importance: importance.map_or_else(|| vec![1.0; in_features], <[f32]>::to_vec),
        uniform: importance.is_none(),
        search: config.scales == ScaleRule::Mse,
    };
    let element = config.format.element();
    Ok(match config.format {
        Format::Int(_) | Format::Fp4 => match config.scale_type {
            ScaleType::F16 => {
                let (rungs, zeros) = choose::<_, LANES>(&matrix, &F16, element, config)?;
                let scales = rungs.into_iter().map(|rung| f16::from_bits(rung as u16));
                GroupScales {
                    scales: Scales::F16(scales.collect()),
                    zeros,
                }
            }
            ScaleType::Bf16 => {
                let (rungs, zeros) = choose::<_, LANES>(&matrix, &Bf16, element, config)?;
                let scales = rungs.into_iter().map(|rung| bf16::from_bits(rung as u16));
                GroupScales {
                    scales: Scales::Bf16(scales.collect()),
                    zeros,
                }
            }
        },
        Format::NvFp4 => {
            let global = match config.global_scale {
                Some(global) => check_global(global)?,
                None => global_scale(weights),
            };
            let ladder = E4m3::new(global, config.four_over_six);
            let (rungs, _) = choose::<_, LANES>(&matrix, &ladder, element, config)?;
            let bytes = rungs.into_iter().map(|rung| rung as u8).collect();
            GroupScales {
                scales: Scales::E4m3 { bytes, global },
                zeros: None,
            }
        }
        Format::MxFp4 => {
            let ladder = E8m0 {
                rule: config.mx_rule,
            };
            let (rungs, _) = choose::<_, 4>(&matrix, &ladder, element, config)?;
            let bytes = rungs.into_iter().map(|rung| rung as u8).collect();
            GroupScales {
                scales: Scales::E8m0 {
                    bytes,
                    global: ladder.global(),
                },
                zeros: None,
            }
        }
    })
}

/// NVFP4's factor `G = 448 · 6 / max |W|` of a matrix: with it the largest group's scale is E4M3's largest. 1 if all
/// are zero.
///
/// Linears that must share a factor share the least of theirs.
pub fn global_scale(weights: &[f32]) -> f32 {
    let largest = weights
        .par_chunks(1 << 14)
        .map(|part| {
            part.iter()
                .fold(0f32, |most, weight| most.max(weight.abs()))
        })
        .reduce(|| 0.0, f32::max);
    if largest > 0.0 {
        (e4m3::MAX * e2m1::MAX / largest).min(f32::MAX)
    } else {
        1.0
    }
}

/// The rungs, chosen `N` at a time, and for asymmetric integers the zeros, of all groups.
fn choose<L: Ladder, const N: usize>(
    matrix: &search::Matrix<'_>,
    ladder: &L,
    element: Element,
    config: &Config,
) -> Result<(Vec<u32>, Option<Vec<u8>>), Error> {
    match element {
        Element::E2m1 => Ok((search::rungs::<_, _, N>(matrix, ladder, &Floats)?.0, None)),
        Element::Int(bits) if config.symmetric => Ok((
            search::rungs::<_, _, N>(matrix, ladder, &Symmetric(bits))?.0,
            None,
        )),
        Element::Int(bits) => {
            let (rungs, zeros) = search::rungs::<_, _, N>(matrix, ladder, &Asymmetric(bits))?;
            Ok((rungs, Some(zeros)))
        }
    }
}

fn check_config(config: &Config, in_features: usize) -> Result<(), Error> {
    check_group(config.group, in_features)?;
    if !config.format.has_free_group() && config.group != config.format.default_group() {
        return Err(Error::Group {
            group: config.group,
            in_features,
            reason: "the format has groups of one size only, 16 (nvfp4) or 32 (mxfp4)",
        });
    }
    Ok(())
}

fn check_weights(weights: &[f32], out_features: usize, in_features: usize) -> Result<(), Error> {
    check_len("weights", out_features * in_features, weights.len())?;
    let strange = weights
        .par_chunks_exact(in_features)
        .position_first(|row| !row.iter().fold(true, |finite, w| finite & w.is_finite()));
    let Some(output) = strange else {
        return Ok(());
    };
    let row = &weights[output * in_features..][..in_features];
    let input = row.iter().position(|w| !w.is_finite()).unwrap_or_default();
    Err(Error::NotFinite {
        value: row[input],
        input,
        output,
    })
}

fn check_global(global: f32) -> Result<f32, Error> {
    match global.is_finite() && global > 0.0 {
        true => Ok(global),
        false => Err(Error::GlobalScale(global)),
    }
}

fn check_len(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    match expected == found {
        true => Ok(()),
        false => Err(Error::Shape {
            what,
            expected,
            found,
        }),
    }
}
