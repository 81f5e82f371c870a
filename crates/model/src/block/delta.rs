use treillage_backend::{DeltaInputs, DeltaSpec, DeltaWeights, Inference};

use super::Loader;
use crate::{Error, plan::DeltaLayout, weights::checked_values};

/// A gated DeltaNet.
pub(super) struct DeltaNet<B: Inference> {
    norm: B::Norm,
    pub(super) input: B::Linear,
    gates: B::Linear,
    rule: B::DeltaRule,
    pub(super) output: B::Linear,
    pub(super) spec: DeltaSpec,
}

impl<B: Inference> DeltaNet<B> {
    pub(super) fn load(
        loader: &Loader<'_, B>,
        norm: B::Norm,
        layout: &DeltaLayout,
    ) -> Result<Self, Error> {
        let spec = layout.spec;
        let values = |name: &str, shape: &[usize]| checked_values(loader.weights, name, shape);
        let weights = DeltaWeights {
            conv: values(&layout.conv, &[spec.channels(), 1, spec.kernel])?,
            log_rate: values(&layout.log_rate, &[spec.value_heads])?,
            time_bias: values(&layout.time_bias, &[spec.value_heads])?,
            norm: values(&layout.norm, &[spec.value_dim])?,
            epsilon: loader.config.rms_norm_eps,
        };
        Ok(Self {
            norm,
            input: loader.linear(&layout.input)?,
            gates: loader.linear(&layout.gates)?,
            rule: loader.backend.load_delta(weights, &spec)?,
            output: loader.linear(&layout.output)?,
            spec,
        })
    }

    /// Width of the concatenated heads.
    pub(super) fn inner(&self) -> usize {
        self.spec.values()
    }

    pub(super) fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        cache: &mut B::Cache,
    ) -> Result<B::Tensor, Error> {
        let [qkvz, ba] = backend.norm_project(x, &self.norm, [&self.input, &self.gates])?;
        let inputs = DeltaInputs {
            qkvz: &qkvz,
            ba: &ba,
        };
        let heads = backend.delta_rule(inputs, &self.rule, &self.spec, cache)?;
        Ok(backend.project_add(&heads, &self.output, x)?)
    }
}
