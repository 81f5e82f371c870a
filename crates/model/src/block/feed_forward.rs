use treillage_backend::{Inference, LinearShape, MoeLayer, Routing, SwiGlu};
use treillage_checkpoint::ModelConfig;

use crate::{
    Error, Weights,
    plan::{BlockLayout, FeedForwardLayout, LinearPlan},
    weights::{checked_linear, load_linear, load_norm},
};

/// The second half of a block: a norm and what follows it.
pub(super) struct FeedForward<B: Inference> {
    norm: B::Norm,
    pub(super) hidden_to_inner: LinearShape,
    pub(super) network: Network<B>,
}

pub(super) enum Network<B: Inference> {
    Dense(SwiGlu<B::Linear>),
    Moe {
        router: B::Linear,
        routing: Routing,
        experts: B::Experts,
        count: usize,
    },
}

impl<B: Inference> FeedForward<B> {
    pub(super) fn load(
        backend: &B,
        weights: &dyn Weights,
        config: &ModelConfig,
        layout: BlockLayout,
    ) -> Result<Self, Error> {
        let hidden_to_inner = layout.hidden_to_inner;
        let hidden = hidden_to_inner.in_features;
        let name = &layout.feed_forward_norm;
        let norm = load_norm(backend, weights, name, hidden, config.rms_norm_eps)?;
        let network = match layout.feed_forward {
            FeedForwardLayout::Dense(mlp) => Network::Dense(mlp.try_map(|plan: LinearPlan| {
                load_linear(backend, weights, &plan.prefix, plan.shape)
            })?),
            FeedForwardLayout::Moe {
                router,
                routing,
                experts,
            } => {
                let count = experts.len();
                let experts = experts
                    .into_iter()
                    .map(|expert| {
                        expert.try_map(|plan| checked_linear(weights, &plan.prefix, plan.shape))
                    })
                    .collect::<Result<_, _>>()?;
                Network::Moe {
                    router: load_linear(backend, weights, &router.prefix, router.shape)?,
                    routing,
                    experts: backend
                        .load_experts(experts, hidden_to_inner)
                        .map_err(Error::weight(&format!("{} and its experts", router.prefix)))?,
                    count,
                }
            }
        };
        Ok(Self {
            norm,
            hidden_to_inner,
            network,
        })
    }

    pub(super) fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, Error> {
        Ok(match &self.network {
            Network::Dense(mlp) => backend.mlp(x, &self.norm, mlp)?,
            Network::Moe {
                router,
                routing,
                experts,
                ..
            } => {
                let layer = MoeLayer {
                    router,
                    correction: None,
                    experts,
                    shared: None,
                };
                backend.moe(x, &self.norm, layer, routing)?
            }
        })
    }
}
