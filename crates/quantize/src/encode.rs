use treillage_backend::Quantization;
use treillage_gptq::Rotation;
use treillage_model::plan::{Input, LinearPlan};

use crate::{
    Error, Event, Folded, LinearSummary, Options,
    coder::{Coder, Codes, Job},
    event::{Stage, timed},
    statistics::Calibration,
};

/// Turns linears of the source into codes.
pub(crate) struct Encoder<'a, B> {
    pub(crate) backend: &'a B,
    pub(crate) source: &'a Folded<'a>,
    pub(crate) options: &'a Options,
    pub(crate) coder: &'a Coder<'a>,
    /// Linears encoded so far.
    linears: usize,
    /// Their weights.
    weights: u64,
}

/// A linear, encoded.
pub(crate) struct QuantizedLinear {
    pub(crate) codes: Codes,
    pub(crate) summary: LinearSummary,
}

/// What is known of an input before the linears that read it are encoded.
pub(crate) struct InputPlan {
    pub(crate) calibration: Calibration,
    /// What the input is rotated with when the model runs.
    pub(crate) rotation: Rotation,
}

impl<'a, B: Quantization> Encoder<'a, B> {
    pub(crate) fn new(
        backend: &'a B,
        source: &'a Folded<'a>,
        options: &'a Options,
        coder: &'a Coder<'a>,
    ) -> Self {
        Self {
            backend,
            source,
            options,
            coder,
            linears: 0,
            weights: 0,
        }
    }

    /// Encodes `linears` of block `block`, as many at a time as the backend wants, unless those of a single input are more, with what
    /// `input` says of their inputs.
    pub(crate) fn encode(
        &mut self,
        block: usize,
        linears: &[&LinearPlan],
        input: impl Fn(Input) -> Result<InputPlan, Error>,
        events: &mut dyn FnMut(Event),
    ) -> Result<Vec<QuantizedLinear>, Error> {
        let mut quantized = Vec::with_capacity(linears.len());
        let mut pending: Vec<Job<'_>> = Vec::new();
        let weights = |jobs: &[Job<'_>]| jobs.iter().map(|job| job.weights.len()).sum::<usize>();
        // Linears with one input stand together and share its Hessian.
        for sharing in linears.chunk_by(|a, b| a.input() == b.input()) {
            let jobs = self.prepare(sharing, &input(sharing[0].input())?)?;
            if weights(&pending) + weights(&jobs) > self.backend.weights_at_once() {
                self.finish(block, std::mem::take(&mut pending), &mut quantized, events)?;
            }
            pending.extend(jobs);
        }
        self.finish(block, pending, &mut quantized, events)?;
        Ok(quantized)
    }

    /// The linears that read one input, ready to be encoded.
    fn prepare<'p>(
        &self,
        linears: &[&'p LinearPlan],
        input: &InputPlan,
    ) -> Result<Vec<Job<'p>>, Error> {
        let mut jobs = Vec::with_capacity(linears.len());
        for plan in linears {
            let (weight, bias) = self.source.linear(&plan.prefix)?;
            weight.check_finite()?;
            jobs.push(Job {
                plan,
                weights: weight.to_f32(),
                bias,
                calibration: input.calibration.clone(),
                rotation: input.rotation,
                global_scale: None,
            });
        }
        let global_scale = self.coder.global_scale(&jobs);
        for job in &mut jobs {
            job.global_scale = global_scale;
        }
        Ok(jobs)
    }

    fn finish(
        &mut self,
        block: usize,
        mut jobs: Vec<Job<'_>>,
        quantized: &mut Vec<QuantizedLinear>,
        events: &mut dyn FnMut(Event),
    ) -> Result<(), Error> {
        if jobs.is_empty() {
            return Ok(());
        }
        let encoded = timed(Stage::Encode, events, |_| {
            self.coder.encode(self.backend, self.options, &mut jobs)
        })?;
        for ((codes, outcome), job) in encoded.into_iter().zip(&jobs) {
            self.linears += 1;
            self.weights += job.plan.shape.weights() as u64;
            events(Event::Encoded {
                prefix: job.plan.prefix.clone(),
                linears: self.linears,
                weights: self.weights,
            });
            // Its own, or one that the model took up.
            let rotation = match job.rotation {
                Rotation::None => self.source.fold().of(job.plan, block),
                online => online,
            };
            quantized.push(QuantizedLinear {
                summary: LinearSummary::new(job, outcome, rotation),
                codes,
            });
        }
        Ok(())
    }
}
