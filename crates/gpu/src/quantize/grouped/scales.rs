//! Scales of groups, chosen on the device.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use treillage_gptq::{Config, Element, Format, MxRule, ScaleRule, ScaleType, Scales, e2m1, e4m3};

use super::Factor;
use crate::context::flat_grid;
use crate::{Constant, Context, Error, Tensor, Work};

/// Scores that the CPU compares at once, which decides between equals.
const BATCH: u32 = 16;
/// Octaves below the largest magnitude's scale that are tried: to a fifth.
const DOWN: f32 = 2.322;
/// Octaves above: to 1.1 times, and for four over six to half as much again.
const UP: f32 = 0.1376;
const FOUR_OVER_SIX: f32 = 0.7;

#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
struct Params {
    count: u32,
    n: u32,
    group: u32,
    search: u32,
    step: u32,
    down: u32,
    up: u32,
    least: u32,
    most: u32,
    batch: u32,
    zeros: u32,
    carry: u32,
    below: u32,
    numerator: f32,
    denominator: f32,
    top: f32,
    middle: f32,
    factor: f32,
}

/// The scales of a matrix: what is stored, and what it stands for.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// u32 `[outputs, groups]`: bits of scales, zeros in the high halves.
    pub(super) rungs: Tensor,
    /// f32 `[outputs, groups]`.
    pub(super) values: Tensor,
    /// The bits of the largest magnitude, where scales depend on it; whether a scale is too large for its type.
    pub(super) state: Tensor,
}

/// The name of the grid's source.
pub(super) fn grid(element: Element) -> Constant {
    Constant::Word(match element {
        Element::Int(_) => "int",
        Element::E2m1 => "e2m1",
    })
}

/// The greatest code, or magnitude.
pub(super) fn top(element: Element) -> f32 {
    match element {
        Element::Int(bits) => (bits.levels() - 1) as f32,
        Element::E2m1 => e2m1::MAX,
    }
}

/// Records the choice of scales for `weights`, `[outputs, n]`: that of `treillage_gptq::choose_scales`.
pub(super) fn choose(
    context: &Context,
    factor: &Factor,
    weights: &Tensor,
    config: &Config,
) -> Result<Chosen, Error> {
    let (outputs, n) = (weights.rows(), weights.width());
    let groups = n / config.group;
    let chosen = Chosen {
        rungs: context.tensor(outputs, groups)?,
        values: context.tensor(outputs, groups)?,
        state: context.tensor(1, 2)?,
    };
    context.recorder.clear(&chosen.state.slice());
    if config.format == Format::NvFp4 && config.global_scale.is_none() {
        let slices = [&weights.slice(), &chosen.state.slice()];
        let count = weights.len() as u32;
        let grid = [count.div_ceil(4096).min(1024), 1, 1];
        context.run("quantize/largest", &[], &slices, &count, grid)?;
    }
    let (ladder, ladder_params) = ladder(config);
    let params = Params {
        count: (outputs * groups) as u32,
        n: n as u32,
        ..ladder_params
    };
    let element = config.format.element();
    let constants = [("GRID", grid(element)), ("LADDER", ladder.into())];
    let slices = [
        &weights.slice(),
        &factor.importance.slice(),
        &chosen.rungs.slice(),
        &chosen.values.slice(),
        &chosen.state.slice(),
    ];
    let tried = u64::from((params.down + params.up) / params.step + 1) * u64::from(params.search);
    let work = Work {
        bytes: 4 * weights.len(),
        operations: 8 * tried * weights.len(),
    };
    let grid = flat_grid(params.count.into());
    context.run_for(work, "quantize/scales", &constants, &slices, &params, grid)?;
    Ok(chosen)
}

/// The name of the ladder's source, and what the choice depends on but sizes.
fn ladder(config: &Config) -> (&'static str, Params) {
    let element = config.format.element();
    let (numerator, denominator, middle, zeros) = match element {
        Element::Int(bits) if config.symmetric => (2.0, top(element), bits.middle().into(), 1),
        Element::Int(_) => (1.0, top(element), 0.0, 2),
        Element::E2m1 => (1.0, top(element), 0.0, 1),
    };
    let params = Params {
        group: config.group as u32,
        search: (config.scales == ScaleRule::Mse).into(),
        batch: BATCH,
        zeros,
        numerator,
        denominator,
        top: top(element),
        middle,
        ..Params::default()
    };
    let span = |octave: u32, up: f32| {
        let rungs = |octaves: f32| (octaves * octave as f32).ceil() as u32;
        (rungs(DOWN), rungs(up))
    };
    match config.format {
        Format::Int(_) | Format::Fp4 => {
            let (name, octave, most) = match config.scale_type {
                ScaleType::F16 => ("f16", 1024, f16::MAX.to_bits()),
                ScaleType::Bf16 => ("bf16", 128, bf16::MAX.to_bits()),
            };
            let (down, up) = span(octave, UP);
            let params = Params {
                step: 64,
                down,
                up,
                least: 1,
                most: most.into(),
                ..params
            };
            (name, params)
        }
        Format::NvFp4 => {
            let (down, up) = span(
                8,
                if config.four_over_six {
                    FOUR_OVER_SIX
                } else {
                    UP
                },
            );
            let params = Params {
                step: 1,
                down,
                up,
                least: 1,
                most: e4m3::MAX_BYTE.into(),
                factor: config.global_scale.unwrap_or(0.0),
                ..params
            };
            ("e4m3", params)
        }
        Format::MxFp4 => {
            let (carry, below) = match config.mx_rule {
                MxRule::Ocp => (0, 2),
                MxRule::CompressedTensors => (1 << 21, 2),
                MxRule::FpQuant => (0, 0),
            };
            let params = Params {
                step: 1,
                down: 2,
                up: 1,
                least: 0,
                most: 254,
                batch: 4,
                carry,
                below,
                factor: mx_factor(config.mx_rule),
                ..params
            };
            ("e8m0", params)
        }
    }
}

/// What all of MXFP4's scales are divided by.
fn mx_factor(rule: MxRule) -> f32 {
    match rule {
        MxRule::FpQuant => 3.0,
        MxRule::Ocp | MxRule::CompressedTensors => 1.0,
    }
}

/// Scales, and zeros if there is a choice of them, as a linear has them. `largest` is the largest magnitude of its weights.
pub(super) fn stored(rungs: &[u32], largest: f32, config: &Config) -> (Scales, Option<Vec<u8>>) {
    let bits = || rungs.iter().map(|&rung| rung as u16);
    let bytes = || rungs.iter().map(|&rung| rung as u8).collect();
    let scales = match config.format {
        Format::Int(_) | Format::Fp4 => match config.scale_type {
            ScaleType::F16 => Scales::F16(bits().map(f16::from_bits).collect()),
            ScaleType::Bf16 => Scales::Bf16(bits().map(bf16::from_bits).collect()),
        },
        Format::NvFp4 => Scales::E4m3 {
            bytes: bytes(),
            global: (config.global_scale)
                .unwrap_or_else(|| treillage_gptq::global_scale(&[largest])),
        },
        Format::MxFp4 => Scales::E8m0 {
            bytes: bytes(),
            global: mx_factor(config.mx_rule),
        },
    };
    let chooses = matches!(config.format, Format::Int(_)) && !config.symmetric;
    let zeros = chooses.then(|| rungs.iter().map(|&rung| (rung >> 16) as u8).collect());
    (scales, zeros)
}
