use treillage_backend::{Inference, LinearShape, MoeLayer, Routing, SharedExpert, SwiGlu};

use super::Loader;
use crate::{
    Error,
    plan::{BlockLayout, FeedForwardLayout, LinearPlan, MoeLayout, SharedLayout},
    weights::{checked_linear, checked_values},
};

/// The second half of a block: a norm and what follows it.
pub(super) struct FeedForward<B: Inference> {
    norm: B::Norm,
    pub(super) network: Network<B>,
}

pub(super) enum Network<B: Inference> {
    Dense(Mlp<B>),
    Moe(Box<Moe<B>>),
}

/// A network for every token.
pub(super) struct Mlp<B: Inference> {
    pub(super) network: SwiGlu<B::Linear>,
    /// Width of what is inside.
    pub(super) inner: usize,
}

/// Experts.
pub(super) struct Moe<B: Inference> {
    pub(super) router: B::Linear,
    correction: Option<B::Tensor>,
    routing: Routing,
    pub(super) experts: B::Experts,
    pub(super) count: usize,
    /// Hidden to the width of an expert.
    pub(super) shape: LinearShape,
    pub(super) shared: Option<Shared<B>>,
}

/// The expert that every token visits.
pub(super) struct Shared<B: Inference> {
    pub(super) mlp: Mlp<B>,
    /// To how much its output counts.
    scale: Option<B::Linear>,
}

impl<B: Inference> FeedForward<B> {
    pub(super) fn load(loader: &Loader<'_, B>, layout: BlockLayout) -> Result<Self, Error> {
        let hidden = loader.config.hidden_size;
        Ok(Self {
            norm: loader.norm(&layout.feed_forward_norm, hidden)?,
            network: match layout.feed_forward {
                FeedForwardLayout::Dense(mlp) => Network::Dense(Mlp::load(loader, *mlp)?),
                FeedForwardLayout::Moe(moe) => Network::Moe(Box::new(Moe::load(loader, *moe)?)),
            },
        })
    }

    pub(super) fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, Error> {
        Ok(match &self.network {
            Network::Dense(mlp) => backend.mlp(x, &self.norm, &mlp.network)?,
            Network::Moe(moe) => {
                let layer = MoeLayer {
                    router: &moe.router,
                    correction: moe.correction.as_ref(),
                    experts: &moe.experts,
                    shared: moe.shared.as_ref().map(|shared| SharedExpert {
                        network: &shared.mlp.network,
                        gate: shared.scale.as_ref(),
                    }),
                };
                backend.moe(x, &self.norm, layer, &moe.routing)?
            }
        })
    }
}

impl<B: Inference> Mlp<B> {
    fn load(loader: &Loader<'_, B>, plan: SwiGlu<LinearPlan>) -> Result<Self, Error> {
        Ok(Self {
            inner: plan.down.shape.in_features,
            network: plan.try_map(|plan| loader.linear(&plan))?,
        })
    }
}

impl<B: Inference> Moe<B> {
    fn load(loader: &Loader<'_, B>, layout: MoeLayout) -> Result<Self, Error> {
        let Loader {
            backend, weights, ..
        } = *loader;
        let MoeLayout {
            router,
            correction,
            routing,
            experts,
            shape,
            shared,
        } = layout;
        let count = experts.len();
        let read = |network: SwiGlu<LinearPlan>| {
            network.try_map(|plan| checked_linear(weights, &plan.prefix, plan.shape))
        };
        let experts = experts.into_iter().map(read).collect::<Result<_, _>>()?;
        let correction = match correction {
            None => None,
            Some(name) => {
                let values = checked_values(weights, &name, &[count])?;
                Some(backend.upload(&values, count)?)
            }
        };
        let place = format!("{} and its experts", router.prefix);
        let refused = Error::weight(&place);
        let (experts, shared) = match shared {
            None => (backend.load_experts(experts, shape).map_err(refused)?, None),
            Some(SharedLayout { network, scale }) => {
                let outer = network.gate.shape;
                let (experts, network) = backend
                    .load_experts_and_shared(experts, shape, read(network)?, outer)
                    .map_err(refused)?;
                let mlp = Mlp {
                    network,
                    inner: outer.out_features,
                };
                let scale = match &scale {
                    Some(scale) => Some(loader.linear(scale)?),
                    None => None,
                };
                (experts, Some(Shared { mlp, scale }))
            }
        };
        Ok(Self {
            router: loader.linear(&router)?,
            correction,
            routing,
            experts,
            count,
            shape,
            shared,
        })
    }
}
