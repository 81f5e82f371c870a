use treillage_backend::{AttentionInputs, AttentionSpec, Inference};

use super::Loader;
use crate::{Error, plan::AttentionLayout};

/// Grouped-query attention with a norm on each head's query and key, and gates of its output or not.
pub(super) struct Attention<B: Inference> {
    norm: B::Norm,
    pub(super) query: B::Linear,
    key: B::Linear,
    value: B::Linear,
    query_norm: B::Norm,
    key_norm: B::Norm,
    pub(super) output: B::Linear,
    pub(super) spec: AttentionSpec,
}

impl<B: Inference> Attention<B> {
    pub(super) fn load(
        loader: &Loader<'_, B>,
        norm: B::Norm,
        layout: &AttentionLayout,
    ) -> Result<Self, Error> {
        let spec = layout.spec;
        Ok(Self {
            norm,
            query: loader.linear(&layout.query)?,
            key: loader.linear(&layout.key)?,
            value: loader.linear(&layout.value)?,
            query_norm: loader.norm(&layout.query_norm, spec.head_dim)?,
            key_norm: loader.norm(&layout.key_norm, spec.head_dim)?,
            output: loader.linear(&layout.output)?,
            spec,
        })
    }

    /// Width of the concatenated heads.
    pub(super) fn inner(&self) -> usize {
        self.spec.heads * self.spec.head_dim
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
