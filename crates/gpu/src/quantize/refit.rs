//! After encoding: the scales that fit best, and the error that is left, as `treillage_trellis::Preparation::fit` finds them.

use bytemuck::{NoUninit, Pod, Zeroable};
use half::f16;
use nalgebra::DMatrix;
use treillage_gptq::Rotation;
use treillage_trellis::{Fitted, ROTATION, ToFit};

use super::matrices::{brought, rotated_both};
use crate::context::{Constant, flat_grid};
use crate::recorder::Download;
use crate::{Context, Error, Tensor, Work};

/// Rows and columns of a product's tile.
const TILE: u32 = 64;

/// Linears whose scales are fitted one after the other. Neighbours that share an input share what is brought of it.
pub(super) struct Refit<'a> {
    context: &'a Context,
    /// The last Hessian, and where it is on the device.
    hessian: Option<(&'a DMatrix<f32>, Tensor)>,
}

/// Scales on their way to the host.
pub(super) struct Coming(Download<2>);

impl Coming {
    /// Waits for them.
    ///
    /// # Errors
    /// What the device reports.
    pub(super) fn wait(self) -> Result<Fitted, Error> {
        let [inputs, outputs] = self.0.wait()?;
        let inputs: Vec<f32> = bytemuck::pod_collect_to_vec(&inputs);
        let outputs: Vec<[f32; 3]> = bytemuck::pod_collect_to_vec(&outputs);
        let sum = |which: usize| outputs.iter().map(|o| f64::from(o[which])).sum::<f64>();
        let (left, all) = (sum(1), sum(2));
        Ok(Fitted {
            suh: inputs.into_iter().map(f16::from_f32).collect(),
            svh: outputs.iter().map(|o| f16::from_f32(o[0])).collect(),
            relative_error: if left == 0.0 { 0.0 } else { left / all },
        })
    }
}

impl<'a> Refit<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self {
            context,
            hessian: None,
        }
    }

    /// Records the fit of one linear's scales. `values` are those of its codes, `[in, out]` in the basis they were made in.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub(super) fn begin(
        &mut self,
        linear: &ToFit<'a>,
        hessian: &'a DMatrix<f32>,
        values: &Tensor,
    ) -> Result<Coming, Error> {
        let context = self.context;
        let (inputs, outputs) = linear.weights.shape();
        // Column-major (in, out) is row-major `[out, in]`, here and below.
        let weights = brought(context, outputs, inputs, linear.weights.as_slice())?;
        let hessian = self.brought(hessian)?;
        let plain = scales(context, &vec![f16::ONE; inputs])?;
        let suh = scales(context, &linear.suh)?;
        let svh = scales(context, &linear.svh)?;
        let fit = Fit {
            context,
            inner: rotated_both(context, values, Rotation::Block(ROTATION))?,
            hessian,
            damping: linear.damping,
        };
        let pulled_weights = fit.pull(&weights, &plain)?;
        let suh = match linear.refit {
            true => fit.input_scales(&suh, &svh, &pulled_weights)?,
            false => suh,
        };
        let found = fit.outputs(&weights, &pulled_weights, [&suh, &svh], linear.refit)?;
        let wanted = [&suh.slice(), &found.slice()];
        Ok(Coming(context.recorder.download(wanted)))
    }

    fn brought(&mut self, hessian: &'a DMatrix<f32>) -> Result<Tensor, Error> {
        match &self.hessian {
            Some((last, there)) if std::ptr::eq(*last, hessian) => Ok(there.clone()),
            _ => {
                let n = hessian.nrows();
                let there = brought(self.context, n, n, hessian.as_slice())?;
                self.hessian = Some((hessian, there.clone()));
                Ok(there)
            }
        }
    }
}

fn scales(context: &Context, scales: &[f16]) -> Result<Tensor, Error> {
    let scales: Vec<f32> = scales.iter().map(|s| s.to_f32()).collect();
    context.bring(&scales)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Matrix {
    outputs: u32,
    inputs: u32,
}

/// A linear on the device.
struct Fit<'a> {
    context: &'a Context,
    /// The values of its codes in the original basis, `[out, in]`.
    inner: Tensor,
    /// `E[x xᵀ]`, `[in, in]`.
    hessian: Tensor,
    damping: f32,
}

impl Fit<'_> {
    fn run<P: NoUninit>(
        &self,
        lanes: u32,
        name: &'static str,
        slices: &[&crate::Slice],
        params: &P,
        groups: usize,
    ) -> Result<(), Error> {
        let constants: [(_, Constant); 2] =
            [("WG", lanes.into()), ("REDUCE", self.context.reduce())];
        let grid = flat_grid(groups as u64);
        self.context.run(name, &constants, slices, params, grid)
    }

    /// `linear · diag(scales) · (H + damping)`, all `[out, in]`.
    fn pull(&self, linear: &Tensor, scales: &Tensor) -> Result<Tensor, Error> {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            inputs: u32,
            damping: f32,
        }
        let (outputs, inputs) = (linear.rows(), linear.width());
        let out = self.context.tensor(outputs, inputs)?;
        let params = Params {
            inputs: inputs as u32,
            damping: self.damping,
        };
        let work = Work {
            bytes: 4 * (linear.len() + self.hessian.len() + out.len()),
            operations: 2 * linear.len() * inputs as u64,
        };
        let slices = [
            &linear.slice(),
            &scales.slice(),
            &self.hessian.slice(),
            &out.slice(),
        ];
        let grid = [inputs as u32 / TILE, outputs as u32 / TILE, 1];
        self.context
            .run_for(work, "refit/pull", &[], &slices, &params, grid)?;
        Ok(out)
    }

    /// The input scales of least error beside the output scales `svh`, starting from `suh`.
    fn input_scales(
        &self,
        suh: &Tensor,
        svh: &Tensor,
        pulled_weights: &Tensor,
    ) -> Result<Tensor, Error> {
        let context = self.context;
        let n = self.inner.width();
        let matrix = self.normal(svh)?;
        let wanted = context.tensor(1, n)?;
        let params = Matrix {
            outputs: self.inner.rows() as u32,
            inputs: n as u32,
        };
        let slices = [
            &self.inner.slice(),
            &svh.slice(),
            &pulled_weights.slice(),
            &wanted.slice(),
        ];
        let grid = [n as u32 / 32, 1, 1];
        context.run("refit/wanted", &[], &slices, &params, grid)?;

        let image = context.tensor(1, n)?;
        let state = context.tensor(1, 2 * n + 1)?;
        let direction = context.tensor(1, n)?;
        let fitted = context.tensor(1, n)?;
        for step in 0..=ToFit::STEPS {
            let from = if step == 0 { suh } else { &direction };
            let slices = [&matrix.slice(), &from.slice(), &image.slice()];
            self.run(64, "refit/times", &slices, &(n as u32), n)?;
            let slices = [
                &matrix.slice(),
                &wanted.slice(),
                &suh.slice(),
                &image.slice(),
                &state.slice(),
                &direction.slice(),
                &fitted.slice(),
            ];
            let params = [n as u32, u32::from(step == 0)];
            self.run(256, "refit/step", &slices, &params, 1)?;
        }
        Ok(fitted)
    }

    /// The matrix of the equations that input scales solve.
    fn normal(&self, svh: &Tensor) -> Result<Tensor, Error> {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            of: Matrix,
            damping: f32,
        }
        let (outputs, inputs) = (self.inner.rows(), self.inner.width());
        let matrix = self.context.tensor(inputs, inputs)?;
        let params = Params {
            of: Matrix {
                outputs: outputs as u32,
                inputs: inputs as u32,
            },
            damping: self.damping,
        };
        let work = Work {
            bytes: 4 * (self.inner.len() + 2 * matrix.len()),
            operations: self.inner.len() * inputs as u64,
        };
        let slices = [
            &self.inner.slice(),
            &svh.slice(),
            &self.hessian.slice(),
            &matrix.slice(),
        ];
        let tiles = inputs as u32 / TILE;
        let grid = [tiles, tiles, 1];
        self.context
            .run_for(work, "refit/normal", &[], &slices, &params, grid)?;
        Ok(matrix)
    }

    /// Of each output the scale of least error beside the input scales `suh`, `svh` where it is not fitted, and the errors left:
    /// `[out, 3]`.
    fn outputs(
        &self,
        weights: &Tensor,
        pulled_weights: &Tensor,
        [suh, svh]: [&Tensor; 2],
        refit: bool,
    ) -> Result<Tensor, Error> {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            of: Matrix,
            damping: f32,
            refit: u32,
        }
        let (outputs, inputs) = (self.inner.rows(), self.inner.width());
        let pulled = self.pull(&self.inner, suh)?;
        let found = self.context.tensor(outputs, 3)?;
        let slices = [
            &self.inner.slice(),
            &suh.slice(),
            &weights.slice(),
            &pulled.slice(),
            &pulled_weights.slice(),
            &svh.slice(),
            &found.slice(),
        ];
        let params = Params {
            of: Matrix {
                outputs: outputs as u32,
                inputs: inputs as u32,
            },
            damping: self.damping,
            refit: refit.into(),
        };
        self.run(64, "refit/outputs", &slices, &params, outputs)?;
        Ok(found)
    }
}
