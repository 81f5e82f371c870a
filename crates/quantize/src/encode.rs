use std::sync::Arc;

use half::f16;
use treillage_backend::{EncodeJob, Quantization};
use treillage_checkpoint::{Checkpoint, DenseTensor, StoredLinear};
use treillage_model::plan::{EMBEDDING, Input, LinearPlan, Role};
use treillage_trellis::{PackedLinear, PackedParts};

use crate::{Error, Event, LinearSummary, Options, rates::Rates, statistics::Calibration};

/// Weights that are turned to f32 and encoded at once, unless a single linear has more: enough small linears to keep
/// every core busy, little memory beside that of a block.
const WEIGHTS_AT_ONCE: usize = 1 << 23;

/// Turns linears of the source into trellis codes.
pub(crate) struct Encoder<'a, B> {
    pub(crate) backend: &'a B,
    pub(crate) source: &'a Checkpoint,
    pub(crate) options: &'a Options,
    rates: &'a Rates,
    /// Linears encoded so far.
    linears: usize,
    /// Their weights.
    weights: u64,
}

/// A linear, encoded.
pub(crate) struct QuantizedLinear {
    pub(crate) packed: Arc<PackedLinear>,
    pub(crate) summary: LinearSummary,
}

/// A linear about to be encoded, and what its summary will need.
struct Pending<'a> {
    plan: &'a LinearPlan,
    job: EncodeJob,
    bias: Option<Vec<f32>>,
    calibration: Calibration,
}

impl<'a, B: Quantization> Encoder<'a, B> {
    pub(crate) fn new(
        backend: &'a B,
        source: &'a Checkpoint,
        options: &'a Options,
        rates: &'a Rates,
    ) -> Self {
        Self {
            backend,
            source,
            options,
            rates,
            linears: 0,
            weights: 0,
        }
    }

    /// Encodes `linears`, a few at a time, with what `calibration` says of their inputs.
    pub(crate) fn encode(
        &mut self,
        linears: &[&LinearPlan],
        calibration: impl Fn(Input) -> Result<Calibration, Error>,
        events: &mut dyn FnMut(Event),
    ) -> Result<Vec<QuantizedLinear>, Error> {
        let mut quantized = Vec::with_capacity(linears.len());
        let mut pending: Vec<Pending<'_>> = Vec::new();
        for (i, &plan) in linears.iter().enumerate() {
            // Linears with one input stand together and share its Hessian.
            let calibration = match pending.last() {
                Some(last) if last.plan.input() == plan.input() => last.calibration.clone(),
                _ => calibration(plan.input())?,
            };
            pending.push(self.prepare(plan, calibration)?);
            let next = linears.get(i + 1).map_or(usize::MAX, |l| l.shape.weights());
            let waiting: usize = pending.iter().map(|p| p.plan.shape.weights()).sum();
            if waiting.saturating_add(next) > WEIGHTS_AT_ONCE {
                self.finish(std::mem::take(&mut pending), &mut quantized, events)?;
            }
        }
        Ok(quantized)
    }

    fn prepare<'p>(
        &self,
        plan: &'p LinearPlan,
        calibration: Calibration,
    ) -> Result<Pending<'p>, Error> {
        let (weight, bias) = self.original(plan)?;
        weight.check_finite()?;
        let config = self
            .options
            .encode_config(&plan.prefix, self.rates.of(&plan.prefix));
        Ok(Pending {
            plan,
            job: EncodeJob {
                name: plan.prefix.clone(),
                weights: weight.to_f32(),
                shape: plan.shape,
                hessian: calibration.hessian.clone(),
                config,
            },
            bias,
            calibration,
        })
    }

    /// The linear as the source stores it; a head that is not stored is the embedding.
    fn original(&self, plan: &LinearPlan) -> Result<(DenseTensor, Option<Vec<f32>>), Error> {
        let LinearPlan { prefix, shape, .. } = plan;
        if plan.role == Role::Head && !self.source.has_linear(prefix) {
            let table = self
                .source
                .matrix(EMBEDDING, shape.out_features, shape.in_features)?;
            return Ok((table, None));
        }
        match self
            .source
            .linear(prefix, shape.in_features, shape.out_features)?
        {
            StoredLinear::Dense { weight, bias } => Ok((weight, bias)),
            StoredLinear::Trellis(_) => Err(Error::AlreadyQuantized(prefix.clone())),
        }
    }

    fn finish(
        &mut self,
        pending: Vec<Pending<'_>>,
        quantized: &mut Vec<QuantizedLinear>,
        events: &mut dyn FnMut(Event),
    ) -> Result<(), Error> {
        let mut jobs = Vec::with_capacity(pending.len());
        let mut rest = Vec::with_capacity(pending.len());
        for Pending {
            plan,
            job,
            bias,
            calibration,
        } in pending
        {
            jobs.push(job);
            rest.push((plan, bias, calibration));
        }
        let encoded = self.backend.encode(jobs)?;
        for (encoded, (plan, bias, calibration)) in encoded.into_iter().zip(rest) {
            self.linears += 1;
            self.weights += plan.shape.weights() as u64;
            events(Event::Encoded {
                prefix: plan.prefix.clone(),
                linears: self.linears,
                weights: self.weights,
            });
            let bits = encoded.linear.bits();
            quantized.push(QuantizedLinear {
                summary: LinearSummary::new(plan, bits, &encoded.report, &calibration),
                packed: Arc::new(match bias {
                    Some(bias) => with_bias(encoded.linear, &bias)?,
                    None => encoded.linear,
                }),
            });
        }
        Ok(())
    }
}

/// `linear` with the original's bias, padded as its outputs are.
fn with_bias(linear: PackedLinear, bias: &[f32]) -> Result<PackedLinear, Error> {
    let mut halves: Vec<f16> = bias.iter().copied().map(f16::from_f32).collect();
    halves.resize(linear.out_features(), f16::ZERO);
    Ok(PackedLinear::new(PackedParts {
        words: linear.shared_words(),
        shape: linear.shape(),
        codebook: linear.codebook(),
        suh: linear.suh().to_vec(),
        svh: linear.svh().to_vec(),
        bias: Some(halves),
    })?)
}
