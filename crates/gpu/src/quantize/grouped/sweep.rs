//! The sweep of GPTQ: codes that make up for one another's errors.

use bytemuck::{Pod, Zeroable};
use treillage_gptq::{Config, Element, GroupedLinear, Parts, Rotation};

use super::{Factor, TILE, scales};
use crate::context::flat_grid;
use crate::quantize::matrices::rotated;
use crate::{Context, Download, Error, Tensor, Work};

/// Inputs that are swept before all after them hear of their errors.
const BLOCK: usize = 128;
/// Outputs of a workgroup of the sweep.
const OUTPUTS: usize = 16;

/// Codes and scales of a linear, on the device.
#[derive(Clone, Debug)]
pub struct Coded {
    /// u32 words of codes as [`GroupedLinear`] keeps them.
    words: Tensor,
    chosen: scales::Chosen,
    /// `[outputs, n]`, rotated, by input.
    weights: Tensor,
    /// `[outputs, n]`, rotated, by step of the sweep.
    errors: Tensor,
    factor: Factor,
    config: Config,
}

/// Energies of a linear's errors, and of its outputs, on their way to the host in parts.
#[derive(Debug)]
pub struct Measured(Download<2>);

impl Measured {
    /// Waits for the relative error; `None` if the outputs have no energy to compare with.
    ///
    /// # Errors
    /// What the device reports.
    pub fn wait(self) -> Result<Option<f64>, Error> {
        let [errors, outputs] = self.0.wait()?.map(|bytes| {
            let sums = bytemuck::pod_collect_to_vec::<u8, f32>(&bytes);
            sums.iter().map(|&sum| f64::from(sum)).sum::<f64>()
        });
        Ok((outputs.is_normal() && outputs > 0.0).then(|| errors / outputs))
    }
}

/// Codes and scales on their way to the host.
#[derive(Debug)]
pub struct Coming {
    download: Download<4>,
    outputs: usize,
    inputs: usize,
    config: Config,
}

/// A linear, and how its Hessian was damped.
#[derive(Debug)]
pub struct Arrived {
    /// The codes.
    pub linear: GroupedLinear,
    /// What was added to the Hessian's diagonal.
    pub damping: f32,
}

impl Factor {
    /// Records the quantization of `weights`, `[outputs, n]` in the layer's own basis, as `config` says, which is that of the factor but
    /// for scales: rotation, scales, sweep, codes.
    ///
    /// # Errors
    /// If the device has no memory left.
    ///
    /// # Panics
    /// If the configuration does not fit the inputs: group, rotation, factor of the matrix.
    pub fn encode(
        &self,
        context: &Context,
        weights: &Tensor,
        config: &Config,
    ) -> Result<Coded, Error> {
        let (outputs, inputs) = (weights.rows(), weights.width());
        assert!(super::fits(config, inputs), "{config:?} of {inputs} inputs");
        let weights = match self.rotation {
            Rotation::None => weights.clone(),
            rotation => rotated(context, weights, rotation)?,
        };
        let chosen = scales::choose(context, self, &weights, config)?;
        let (codes, errors) = self.sweep(context, &weights, &chosen, config)?;
        let bits = config.format.element().code_bits();
        let words = context.tensor(1, (outputs * inputs * bits).div_ceil(32))?;
        let params = [(outputs * inputs) as u32, bits as u32];
        let slices = [&codes.slice(), &words.slice()];
        let grid = flat_grid(words.len().div_ceil(256));
        context.run("quantize/pack", &[], &slices, &params, grid)?;
        Ok(Coded {
            words,
            chosen,
            weights,
            errors,
            factor: self.clone(),
            config: config.clone(),
        })
    }

    /// Codes u32 `[outputs, n]` by input, and errors by step.
    fn sweep(
        &self,
        context: &Context,
        weights: &Tensor,
        chosen: &scales::Chosen,
        config: &Config,
    ) -> Result<(Tensor, Tensor), Error> {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            outputs: u32,
            n: u32,
            group: u32,
            first: u32,
            top: f32,
        }
        let (outputs, n) = (weights.rows(), weights.width());
        let element: Element = config.format.element();
        let [sums, errors, codes] = [
            context.tensor(outputs, n)?,
            context.tensor(outputs, n)?,
            context.tensor(outputs, n)?,
        ];
        let constants = [("GRID", scales::grid(element))];
        for first in (0..n).step_by(BLOCK) {
            let params = Params {
                outputs: outputs as u32,
                n: n as u32,
                group: config.group as u32,
                first: first as u32,
                top: scales::top(element),
            };
            let slices = [
                &weights.slice(),
                &self.order.slice(),
                &self.lower.slice(),
                &chosen.values.slice(),
                &chosen.rungs.slice(),
                &sums.slice(),
                &errors.slice(),
                &codes.slice(),
            ];
            let block = BLOCK.min(n - first);
            let work = Work {
                bytes: 16 * (outputs * block) as u64,
                operations: (outputs * block * block) as u64,
            };
            let grid = [outputs.div_ceil(OUTPUTS) as u32, 1, 1];
            context.run_for(work, "quantize/sweep", &constants, &slices, &params, grid)?;
            let later = n.saturating_sub(first + BLOCK);
            let params = [outputs as u32, n as u32, first as u32];
            let slices = [&errors.slice(), &self.lower.slice(), &sums.slice()];
            let work = Work {
                bytes: 4 * (outputs * (BLOCK + 2 * later)) as u64,
                operations: 2 * (outputs * BLOCK * later) as u64,
            };
            let grid = [
                later.div_ceil(TILE) as u32,
                outputs.div_ceil(TILE) as u32,
                1,
            ];
            context.run_for(work, "quantize/feedback", &[], &slices, &params, grid)?;
        }
        Ok((codes, errors))
    }
}

impl Coded {
    /// Measures the codes, `tr(D H Dᵀ) / tr(W H Wᵀ)`, as `treillage_gptq::relative_error` does, and submits all that is recorded.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub fn measure(&self, context: &Context) -> Result<Measured, Error> {
        let errors = self.energy(context, &self.errors, true)?;
        let outputs = self.energy(context, &self.weights, false)?;
        let download = context
            .recorder
            .download([&errors.slice(), &outputs.slice()]);
        Ok(Measured(download))
    }

    fn energy(&self, context: &Context, values: &Tensor, ordered: bool) -> Result<Tensor, Error> {
        let (outputs, n) = (values.rows(), values.width());
        let (down, across) = (outputs.div_ceil(TILE), n.div_ceil(TILE));
        let sums = context.tensor(down, across)?;
        let params = [outputs as u32, n as u32, ordered.into()];
        let slices = [
            &values.slice(),
            &self.factor.hessian.slice(),
            &self.factor.order.slice(),
            &sums.slice(),
        ];
        let work = Work {
            bytes: 4 * (values.len() + self.factor.hessian.len()),
            operations: 2 * values.len() * n as u64,
        };
        let constants = [("WG", 256.into())];
        let grid = [across as u32, down as u32, 1];
        context.run_for(work, "quantize/energy", &constants, &slices, &params, grid)?;
        Ok(sums)
    }

    /// Submits all that is recorded, and what brings the codes to the host.
    pub fn download(&self, context: &Context) -> Coming {
        Coming {
            download: context.recorder.download([
                &self.words.slice(),
                &self.chosen.rungs.slice(),
                &self.chosen.state.slice(),
                &self.factor.state.slice(),
            ]),
            outputs: self.weights.rows(),
            inputs: self.weights.width(),
            config: self.config.clone(),
        }
    }
}

impl Coming {
    /// Waits for the linear. `None` where the Hessian has an input whose moment is not positive, or needs more than the first damping or
    /// more than f32, and where a scale is too large for its type: the CPU's solver knows what to do, or to say.
    ///
    /// # Errors
    /// What the device reports.
    pub fn wait(self) -> Result<Option<Arrived>, Error> {
        let [words, rungs, chosen, state] = self.download.wait()?;
        let words_of = |bytes: &[u8]| bytemuck::pod_collect_to_vec::<u8, u32>(bytes);
        let (chosen, state) = (words_of(&chosen), words_of(&state));
        let damping = f32::from_bits(state[0]);
        if chosen[1] != 0 || state[1] != 0 {
            return Ok(None);
        }
        let largest = f32::from_bits(chosen[0]);
        let (scales, zeros) = scales::stored(&words_of(&rungs), largest, &self.config);
        let element = self.config.format.element();
        let mut codes = words;
        codes.truncate(self.outputs * self.inputs * element.code_bits() / 8);
        let parts = Parts {
            in_features: self.inputs,
            out_features: self.outputs,
            element,
            group: self.config.group,
            codes,
            scales,
            zeros,
            order: None,
            rotation: self.config.rotation,
            bias: None,
        };
        // What is wrong with codes that a device made is the device's fault.
        let linear = GroupedLinear::new(parts).map_err(|error| Error::Lost(error.to_string()))?;
        Ok(Some(Arrived { linear, damping }))
    }
}
