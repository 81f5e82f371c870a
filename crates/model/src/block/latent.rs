use treillage_backend::{Inference, LatentInputs, LatentSpec};

use super::Loader;
use crate::{
    Error,
    plan::LatentLayout,
    weights::{checked_linear, load_norm},
};

/// Under the root of the norms of what queries and what keys and values are made of, whatever the model's epsilon is:
/// transformers makes them without one.
const EPSILON: f32 = 1e-6;

/// Multi-head latent attention.
pub(super) struct LatentAttention<B: Inference> {
    norm: B::Norm,
    pub(super) query_down: B::Linear,
    query_norm: B::Norm,
    pub(super) query_up: B::Linear,
    latent_down: B::Linear,
    latent_norm: B::Norm,
    pub(super) expansion: B::Expansion,
    pub(super) output: B::Linear,
    /// Width of what queries are made of.
    pub(super) query_rank: usize,
    pub(super) spec: LatentSpec,
}

impl<B: Inference> LatentAttention<B> {
    pub(super) fn load(
        loader: &Loader<'_, B>,
        norm: B::Norm,
        layout: &LatentLayout,
    ) -> Result<Self, Error> {
        let Loader {
            backend, weights, ..
        } = *loader;
        let (spec, query_rank) = (layout.spec, layout.query_up.shape.in_features);
        let prefix = &layout.latent_up.prefix;
        let expansion = checked_linear(weights, prefix, layout.latent_up.shape)?;
        Ok(Self {
            norm,
            query_down: loader.linear(&layout.query_down)?,
            query_norm: load_norm(backend, weights, &layout.query_norm, query_rank, EPSILON)?,
            query_up: loader.linear(&layout.query_up)?,
            latent_down: loader.linear(&layout.latent_down)?,
            latent_norm: load_norm(backend, weights, &layout.latent_norm, spec.rank, EPSILON)?,
            expansion: backend
                .load_expansion(expansion, &spec)
                .map_err(Error::weight(prefix))?,
            output: loader.linear(&layout.output)?,
            query_rank,
            spec,
        })
    }

    /// Width of the concatenated heads.
    pub(super) fn inner(&self) -> usize {
        self.spec.heads * self.spec.value_dim
    }

    pub(super) fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        cache: &mut B::Cache,
    ) -> Result<B::Tensor, Error> {
        let down = [&self.query_down, &self.latent_down];
        let [query, latent] = backend.norm_project(x, &self.norm, down)?;
        let [q] = backend.norm_project(&query, &self.query_norm, [&self.query_up])?;
        let inputs = LatentInputs {
            q: &q,
            latent: &latent,
            norm: &self.latent_norm,
        };
        let heads = backend.latent_attention(inputs, &self.expansion, &self.spec, cache)?;
        Ok(backend.project_add(&heads, &self.output, x)?)
    }
}
