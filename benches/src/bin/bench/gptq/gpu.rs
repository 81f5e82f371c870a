//! The stages on a GPU.

use std::time::Instant;

use anyhow::{Context as _, Result};
use nalgebra::DMatrix;
use treillage_gptq::Config;
use treillage_gpu::quantize::{Arrived, Factor, second_moment};
use treillage_gpu::{Adapters, Context, Gpu, Options, Tensor};

use super::STAGES;
use crate::device::print_profile;

/// Number `index` of `treillage devices`.
pub(super) fn open(index: usize, profile: bool) -> Result<Context> {
    let adapters = Adapters::find();
    let adapter = adapters.get(index)?;
    println!("{}", adapter.name());
    let options = Options {
        profile,
        ..Options::default()
    };
    let context = Context::new(&Gpu::open(adapter, options)?);
    context.recorder.time_kernels(false);
    Ok(context)
}

/// A linear and its activations, in the device's memory.
pub(super) struct Subject<'a> {
    context: &'a Context,
    weights: Tensor,
    x: Tensor,
    /// How long it took to bring them.
    pub(super) upload_ms: f64,
}

impl<'a> Subject<'a> {
    pub(super) fn new(context: &'a Context, weights: &DMatrix<f32>, x: &[f32]) -> Result<Self> {
        let (inputs, outputs) = weights.shape();
        let subject = Self {
            context,
            weights: context.tensor(outputs, inputs)?,
            x: context.tensor(x.len() / inputs, inputs)?,
            upload_ms: 0.0,
        };
        let start = Instant::now();
        for (tensor, values) in [(&subject.weights, weights.as_slice()), (&subject.x, x)] {
            let bytes = bytemuck::cast_slice(values);
            context.gpu().upload(&tensor.slice(), 0, bytes)?;
        }
        context.recorder.submit();
        context.gpu().wait()?;
        let upload_ms = 1e3 * start.elapsed().as_secs_f64();
        Ok(Self {
            upload_ms,
            ..subject
        })
    }

    /// Milliseconds of the stages, from activations on the device to codes on the host, each waited for.
    pub(super) fn run(&self, config: &Config) -> Result<[f64; STAGES.len()]> {
        let context = self.context;
        let wait = || -> Result<()> {
            context.recorder.submit();
            Ok(context.gpu().wait()?)
        };
        let start = Instant::now();
        let hessian = second_moment(context, &self.x)?;
        wait()?;
        let first = start.elapsed();
        let factor = Factor::new(context, &hessian, config)?;
        wait()?;
        let second = start.elapsed();
        let coded = factor.encode(context, &self.weights, config)?;
        std::hint::black_box(arrived(coded.download(context).wait()?)?);
        let third = start.elapsed();
        Ok([first, second - first, third - second, third].map(|t| 1e3 * t.as_secs_f64()))
    }

    /// The relative squared error of the outputs.
    pub(super) fn error(&self, config: &Config) -> Result<f64> {
        let hessian = second_moment(self.context, &self.x)?;
        let factor = Factor::new(self.context, &hessian, config)?;
        let coded = factor.encode(self.context, &self.weights, config)?;
        let measured = coded.measure(self.context)?;
        arrived(coded.download(self.context).wait()?)?;
        measured.wait()?.context("weights without energy")
    }

    /// One run with every kernel timed, and where its time went.
    pub(super) fn profile(&self, config: &Config) -> Result<()> {
        let recorder = &self.context.recorder;
        recorder.time_kernels(true);
        self.run(config)?;
        recorder.time_kernels(false);
        print_profile(self.context);
        Ok(())
    }
}

fn arrived(arrived: Option<Arrived>) -> Result<Arrived> {
    arrived.context("the device leaves this Hessian to the CPU")
}
