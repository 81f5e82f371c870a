use std::collections::BTreeMap;

use treillage_backend::{Quantization, RouteWeighting};

use super::{Block, feed_forward::Network};
use crate::{Error, plan::Input};

/// The running second moments of everything that a block's linears read.
#[derive(Clone, Debug)]
pub struct BlockMoments<M> {
    by_input: BTreeMap<Input, M>,
}

impl<M> BlockMoments<M> {
    /// The moments of `input`; `None` if the block has no such input.
    pub fn get(&self, input: Input) -> Option<&M> {
        self.by_input.get(&input)
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Input, &M)> {
        self.by_input
            .iter()
            .map(|(&input, moments)| (input, moments))
    }
}

impl<B: Quantization> Block<B> {
    /// From now on [`forward`](Block::forward) also gathers the second moment of what each linear reads; `weighting`
    /// says how much a token counts for the experts it is routed to.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn watch(
        &mut self,
        backend: &B,
        weighting: RouteWeighting,
    ) -> Result<BlockMoments<B::Moments>, Error> {
        let new = |width| backend.new_moments(width);
        let attention = &mut self.attention;
        let mut by_input = BTreeMap::new();
        let mut watch = |linear: &mut B::Linear, input, width| {
            let moments = new(width)?;
            backend.watch(linear, &moments)?;
            by_input.insert(input, moments);
            Ok::<_, Error>(())
        };
        // One linear of those that share an input stands for all.
        watch(&mut attention.query, Input::Attention, attention.hidden)?;
        let inner = attention.inner();
        watch(&mut attention.output, Input::AttentionOutput, inner)?;

        let hidden = self.feed_forward.hidden_to_inner.in_features;
        let inner = self.feed_forward.hidden_to_inner.out_features;
        match &mut self.feed_forward.network {
            Network::Dense(mlp) => {
                watch(&mut mlp.gate, Input::FeedForward, hidden)?;
                watch(&mut mlp.down, Input::Down, inner)?;
            }
            Network::Moe {
                router,
                experts,
                count,
                ..
            } => {
                watch(router, Input::FeedForward, hidden)?;
                let all = |width| {
                    (0..*count)
                        .map(|_| new(width))
                        .collect::<Result<Vec<_>, _>>()
                };
                let (inputs, downs) = (all(hidden)?, all(inner)?);
                backend.watch_experts(experts, &inputs, &downs, weighting)?;
                by_input.extend((0..).map(Input::Expert).zip(inputs));
                by_input.extend((0..).map(Input::ExpertDown).zip(downs));
            }
        }
        Ok(BlockMoments { by_input })
    }
}
