use treillage_backend::{AttentionInputs, AttentionSpec, Inference, MixerSpec, Rope, RopePairing};
use treillage_checkpoint::ModelConfig;

use crate::{
    Error, Weights,
    plan::{BlockLayout, LinearPlan},
    weights::{load_linear, load_norm},
};

/// Grouped-query attention with a norm on each head's query and key.
pub(super) struct Attention<B: Inference> {
    norm: B::Norm,
    pub(super) query: B::Linear,
    key: B::Linear,
    value: B::Linear,
    query_norm: B::Norm,
    key_norm: B::Norm,
    pub(super) output: B::Linear,
    pub(super) hidden: usize,
    spec: AttentionSpec,
}

impl<B: Inference> Attention<B> {
    pub(super) fn load(
        backend: &B,
        weights: &dyn Weights,
        config: &ModelConfig,
        layout: &BlockLayout,
    ) -> Result<Self, Error> {
        let sizes = &config.attention;
        let norm = |name: &str, len| load_norm(backend, weights, name, len, config.rms_norm_eps);
        let linear = |plan: &LinearPlan| load_linear(backend, weights, &plan.prefix, plan.shape);
        Ok(Self {
            norm: norm(&layout.attention_norm, config.hidden_size)?,
            query: linear(&layout.query)?,
            key: linear(&layout.key)?,
            value: linear(&layout.value)?,
            query_norm: norm(&layout.query_norm, sizes.head_dim)?,
            key_norm: norm(&layout.key_norm, sizes.head_dim)?,
            output: linear(&layout.attention_output)?,
            hidden: config.hidden_size,
            spec: AttentionSpec {
                heads: sizes.num_heads,
                kv_heads: sizes.num_kv_heads,
                head_dim: sizes.head_dim,
                scale: (sizes.head_dim as f32).sqrt().recip(),
                rope: Rope {
                    theta: sizes.rope_theta,
                    dims: sizes.head_dim,
                    pairing: RopePairing::HalfSplit,
                },
                output_gate: false,
            },
        })
    }

    /// Width of the concatenated heads.
    pub(super) fn inner(&self) -> usize {
        self.spec.heads * self.spec.head_dim
    }

    pub(super) fn new_cache(&self, backend: &B, capacity: usize) -> Result<B::Cache, Error> {
        Ok(backend.new_cache(&MixerSpec::Attention(self.spec), capacity)?)
    }

    pub(super) fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        cache: &mut B::Cache,
    ) -> Result<B::Tensor, Error> {
        let [q, k, v] =
            backend.norm_project(x, &self.norm, [&self.query, &self.key, &self.value])?;
        let inputs = AttentionInputs {
            q: &q,
            k: &k,
            v: &v,
            q_norm: Some(&self.query_norm),
            k_norm: Some(&self.key_norm),
        };
        let heads = backend.attention(inputs, &self.spec, cache)?;
        Ok(backend.project_add(&heads, &self.output, x)?)
    }
}
