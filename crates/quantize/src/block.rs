use std::sync::Arc;

use treillage_backend::{Quantization, RouteWeighting};
use treillage_model::{
    Block,
    plan::{BlockPlan, Input, LinearPlan},
};

use crate::{
    Capture, Error, Event, ExpertTokens,
    encode::{Encoder, QuantizedLinear},
    overlay::Overlay,
    statistics::Statistics,
    stream::Stream,
};

impl<B: Quantization> Encoder<'_, B> {
    /// Encodes the linears of block `index`, stage by stage, on the inputs that `stream` gives it.
    pub(crate) fn block(
        &mut self,
        index: usize,
        stages: &[Vec<&LinearPlan>],
        stream: &Stream,
        events: &mut dyn FnMut(Event),
    ) -> Result<Vec<QuantizedLinear>, Error> {
        let mut overlay = Overlay::new(self.source);
        let mut quantized = Vec::new();
        for (pass, stage) in stages.iter().enumerate() {
            let statistics = self.capture(index, pass, stage, stream, &overlay, events)?;
            let encoded = self.encode(stage, |input| statistics.of(input), events)?;
            for linear in &encoded {
                overlay.insert(linear.summary.prefix.clone(), Arc::clone(&linear.packed));
            }
            quantized.extend(encoded);
        }
        Ok(quantized)
    }

    /// Sends all rows through the block as it is by now, and takes what the linears of `stage` read.
    fn capture(
        &self,
        index: usize,
        pass: usize,
        stage: &[&LinearPlan],
        stream: &Stream,
        overlay: &Overlay<'_>,
        events: &mut dyn FnMut(Event),
    ) -> Result<Statistics, Error> {
        let experts = self.options.recipe.experts;
        let config = self.source.config();
        let everywhere = config.with_all_experts();
        let (config, weighting) = match experts {
            ExpertTokens::All => (&everywhere, RouteWeighting::Uniform),
            ExpertTokens::Routed { weighting, .. } => (config, weighting),
        };
        let mut block = Block::load(self.backend, overlay, config, index)?;
        let moments = block.watch(self.backend, weighting)?;
        stream.observe(self.backend, &block, |row| {
            events(Event::Forwarded {
                block: index,
                pass,
                rows: row + 1,
            });
        })?;
        let inputs = stage.iter().map(|linear| linear.input());
        Statistics::take(self.backend, &moments, inputs, experts)
    }
}

/// The linears of a block, by the pass over all rows that captures what they read.
pub(crate) fn stages(plan: &BlockPlan, capture: Capture) -> Vec<Vec<&LinearPlan>> {
    let stage = |linear: &LinearPlan| match (capture, linear.input()) {
        (Capture::Once, _) => 0,
        (Capture::Staged, Input::Attention) => 0,
        (Capture::Staged, Input::AttentionOutput) => 1,
        (Capture::Staged, Input::FeedForward | Input::Expert(_)) => 2,
        (Capture::Staged, Input::Down | Input::ExpertDown(_) | Input::Head) => 3,
    };
    let mut stages: Vec<Vec<&LinearPlan>> = vec![Vec::new(); 4];
    for linear in &plan.linears {
        stages[stage(linear)].push(linear);
    }
    stages.retain(|linears| !linears.is_empty());
    stages
}
