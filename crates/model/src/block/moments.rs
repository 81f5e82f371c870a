use std::collections::BTreeMap;

use treillage_backend::{Quantization, RouteWeighting};

use super::{Block, Mixer, feed_forward::Network};
use crate::{Error, plan::Input};

/// The running second moments of everything that a block's linears read.
#[derive(Clone, Debug)]
pub struct BlockMoments<M> {
    by_input: BTreeMap<Input, M>,
}

impl<M> BlockMoments<M> {
    /// The moments of `input`; `None` if the block has no such input, or it was not wanted.
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
    /// From now on [`forward`](Block::forward) also gathers the second moment of each input of linears that `wants` says;
    /// `weighting` says how much a token counts for the experts it is routed to.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn watch(
        &mut self,
        backend: &B,
        weighting: RouteWeighting,
        wants: &dyn Fn(Input) -> bool,
    ) -> Result<BlockMoments<B::Moments>, Error> {
        let mut watcher = Watcher {
            backend,
            wants,
            by_input: BTreeMap::new(),
        };
        let hidden = self.hidden;
        // One linear of those that share an input stands for all.
        match &mut self.mixer {
            Mixer::Attention(attention) => {
                let inner = attention.inner();
                watcher.linear(&mut attention.query, Input::Attention, hidden)?;
                watcher.linear(&mut attention.output, Input::AttentionOutput, inner)?;
            }
            Mixer::Latent(latent) => {
                let (inner, query_rank) = (latent.inner(), latent.query_rank);
                watcher.linear(&mut latent.query_down, Input::Attention, hidden)?;
                watcher.linear(&mut latent.query_up, Input::QueryLatent, query_rank)?;
                if let Some(moments) = watcher.moments(Input::Latent, latent.spec.rank)? {
                    backend.watch_expansion(&mut latent.expansion, &moments)?;
                }
                watcher.linear(&mut latent.output, Input::AttentionOutput, inner)?;
            }
            Mixer::Delta(net) => {
                let inner = net.inner();
                watcher.linear(&mut net.input, Input::Attention, hidden)?;
                watcher.linear(&mut net.output, Input::AttentionOutput, inner)?;
            }
        }
        match self.feed_forward.as_mut().map(|part| &mut part.network) {
            None => {}
            Some(Network::Dense(mlp)) => {
                watcher.linear(&mut mlp.network.gate, Input::FeedForward, hidden)?;
                watcher.linear(&mut mlp.network.down, Input::Down, mlp.inner)?;
            }
            Some(Network::Moe(moe)) => {
                watcher.linear(&mut moe.router, Input::FeedForward, hidden)?;
                let inputs = watcher.experts(moe.count, Input::Expert, hidden)?;
                let inner = moe.shape.out_features;
                let downs = watcher.experts(moe.count, Input::ExpertDown, inner)?;
                // Rows that experts are watched for go another way.
                if inputs.iter().chain(&downs).any(Option::is_some) {
                    backend.watch_experts(&mut moe.experts, &inputs, &downs, weighting)?;
                }
                if let Some(shared) = &mut moe.shared {
                    let inner = shared.mlp.inner;
                    watcher.linear(&mut shared.mlp.network.down, Input::SharedDown, inner)?;
                }
            }
        }
        Ok(BlockMoments {
            by_input: watcher.by_input,
        })
    }
}

/// Makes moments, one for each input that is wanted.
struct Watcher<'a, B: Quantization> {
    backend: &'a B,
    wants: &'a dyn Fn(Input) -> bool,
    by_input: BTreeMap<Input, B::Moments>,
}

impl<B: Quantization> Watcher<'_, B> {
    fn moments(&mut self, input: Input, width: usize) -> Result<Option<B::Moments>, Error> {
        if !(self.wants)(input) {
            return Ok(None);
        }
        let moments = self.backend.new_moments(width)?;
        self.by_input.insert(input, moments.clone());
        Ok(Some(moments))
    }

    fn linear(&mut self, linear: &mut B::Linear, input: Input, width: usize) -> Result<(), Error> {
        if let Some(moments) = self.moments(input, width)? {
            self.backend.watch(linear, &moments)?;
        }
        Ok(())
    }

    fn experts(
        &mut self,
        count: usize,
        input: fn(usize) -> Input,
        width: usize,
    ) -> Result<Vec<Option<B::Moments>>, Error> {
        (0..count).map(|e| self.moments(input(e), width)).collect()
    }
}
