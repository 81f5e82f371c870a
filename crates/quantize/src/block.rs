use std::collections::{BTreeMap, BTreeSet};

use treillage_backend::{Quantization, RouteWeighting};
use treillage_checkpoint::ModelConfig;
use treillage_gptq::Rotation;
use treillage_model::{
    Block, BlockMoments, Weights,
    plan::{BlockPlan, Input, LinearPlan},
};

use crate::{
    Capture, Error, Event, ExpertTokens, Recipe,
    coder::Coder,
    encode::{Encoder, InputPlan, QuantizedLinear},
    event::{Stage, timed},
    overlay::Overlay,
    passes::Room,
    statistics::Statistics,
    stream::Stream,
    trial::{self, Split},
};

/// One calibration row of so many is held back while a rotation is chosen.
const HELD_BACK: usize = 8;

impl<B: Quantization> Encoder<'_, B> {
    /// Encodes the linears of block `index`, stage by stage and pass by pass, on the inputs that `stream` gives it. Inputs are
    /// rotated with one of `rotations`, each kind with the best for those of it that are met first.
    pub(crate) fn block(
        &mut self,
        index: usize,
        stages: &[Vec<Vec<&LinearPlan>>],
        stream: &Stream,
        rotations: &[Rotation],
        events: &mut dyn FnMut(Event),
    ) -> Result<Vec<QuantizedLinear>, Error> {
        let mut overlay = Overlay::new(self.source);
        let mut quantized: Vec<QuantizedLinear> = Vec::new();
        // Of them so many have taken the place of the original.
        let mut replaced = 0;
        let mut chosen = BTreeMap::new();
        let passes = stages.iter().flat_map(|stage| {
            let last = stage.len().saturating_sub(1);
            (stage.iter().enumerate()).map(move |(number, linears)| (linears, number == last))
        });
        for (pass, (linears, ends_stage)) in passes.enumerate() {
            let mut rows = 0;
            let watched = Watched::load(self, &overlay, index, linears)?;
            let mut observe = |events: &mut dyn FnMut(Event), which: &dyn Fn(usize) -> bool| {
                timed(Stage::Capture, events, |events| {
                    watched.observe(stream, which, &mut || {
                        rows += 1;
                        events(Event::Forwarded {
                            block: index,
                            pass,
                            rows,
                        });
                    })
                })
            };
            let statistics = match (self.coder, rotations) {
                (Coder::Grouped { config, .. }, [_, _, ..]) => {
                    let held_back = |row| is_held_back(row, stream.len());
                    let fit = observe(events, &|row| !held_back(row))?;
                    let held_out = observe(events, &held_back)?;
                    let split = Split { fit, held_out };
                    for linears in kinds(linears) {
                        let kind = trial::kind(linears[0].input());
                        if chosen.contains_key(&kind) {
                            continue;
                        }
                        let errors = timed(Stage::Trial, events, |_| {
                            trial::errors(self.source, &linears, &split, None, rotations, config)
                        })?;
                        let best = errors.map(|errors| trial::best(rotations, &errors));
                        chosen.insert(kind, best.unwrap_or_default());
                    }
                    let Split { mut fit, held_out } = split;
                    fit.merge(held_out)?;
                    fit
                }
                _ => observe(events, &|_| true)?,
            };
            drop(watched);
            let only = rotations.first().copied().unwrap_or_default();
            let input = |input| {
                Ok(InputPlan {
                    calibration: statistics.of(input)?,
                    rotation: *chosen.get(&trial::kind(input)).unwrap_or(&only),
                })
            };
            quantized.extend(self.encode(index, linears, input, events)?);
            // All passes of a stage see the block as it was before.
            if ends_stage {
                for linear in &quantized[replaced..] {
                    overlay.insert(linear.summary.prefix.clone(), linear.codes.clone());
                }
                replaced = quantized.len();
            }
        }
        Ok(quantized)
    }
}

/// Whether a row of so many is held back; a single one is not.
fn is_held_back(row: usize, rows: usize) -> bool {
    match rows {
        0..HELD_BACK => rows > 1 && row + 1 == rows,
        _ => (row + 1).is_multiple_of(HELD_BACK),
    }
}

/// `linears` by the kind of their input.
pub(crate) fn kinds<'p>(linears: &[&'p LinearPlan]) -> Vec<Vec<&'p LinearPlan>> {
    let mut kinds: BTreeMap<Input, Vec<&LinearPlan>> = BTreeMap::new();
    for linear in linears {
        kinds
            .entry(trial::kind(linear.input()))
            .or_default()
            .push(linear);
    }
    kinds.into_values().collect()
}

/// How a block is loaded, or a part of it.
pub(crate) type Load<B> =
    fn(&B, &dyn Weights, &ModelConfig, usize) -> Result<Block<B>, treillage_model::Error>;

/// How as much of a block is loaded as `linears` need to gather what they read: what the mixer reads is seen without the network
/// behind it.
pub(crate) fn needed<B: Quantization>(linears: &[&LinearPlan]) -> Load<B> {
    match linears.iter().all(|linear| linear.input().is_mixers()) {
        true => Block::load_mixer,
        false => Block::load,
    }
}

/// A block that gathers what some of its linears read.
pub(crate) struct Watched<'a, B: Quantization> {
    backend: &'a B,
    block: Block<B>,
    inputs: BTreeSet<Input>,
    moments: BlockMoments<B::Moments>,
    experts: ExpertTokens,
}

impl<'a, B: Quantization> Watched<'a, B> {
    fn load(
        encoder: &Encoder<'a, B>,
        weights: &dyn Weights,
        index: usize,
        linears: &[&LinearPlan],
    ) -> Result<Self, Error> {
        let model = encoder.source.source().config();
        Self::new(
            encoder.backend,
            weights,
            model,
            &encoder.options.recipe,
            index,
            linears,
            needed(linears),
        )
    }

    /// What `load` gives of block `index` of the model that `model` describes, which gathers what `linears` read.
    pub(crate) fn new(
        backend: &'a B,
        weights: &dyn Weights,
        model: &ModelConfig,
        recipe: &Recipe,
        index: usize,
        linears: &[&LinearPlan],
        load: Load<B>,
    ) -> Result<Self, Error> {
        let inputs: BTreeSet<Input> = linears.iter().map(|linear| linear.input()).collect();
        let experts = inputs.iter().any(|input| matches!(input, Input::Expert(_)));
        // What all experts read together is what each of them is drawn toward.
        let wants = |input| inputs.contains(&input) || (experts && input == Input::FeedForward);
        let everywhere = model.with_all_experts();
        let (model, weighting) = match recipe.experts {
            ExpertTokens::All => (&everywhere, RouteWeighting::Uniform),
            ExpertTokens::Routed { weighting, .. } => (model, weighting),
        };
        let mut block = load(backend, weights, model, index)?;
        Ok(Self {
            backend,
            moments: block.watch(backend, weighting, &wants)?,
            block,
            inputs,
            experts: recipe.experts,
        })
    }

    /// The block.
    pub(crate) fn block(&self) -> &Block<B> {
        &self.block
    }

    /// Sends the rows that `which` says through the block, and takes what was gathered of them.
    pub(crate) fn observe(
        &self,
        stream: &Stream,
        which: impl Fn(usize) -> bool,
        after_row: &mut dyn FnMut(),
    ) -> Result<Statistics, Error> {
        stream.observe(self.backend, &self.block, which, after_row)?;
        let inputs = self.inputs.iter().copied();
        Statistics::take(self.backend, &self.moments, inputs, self.experts)
    }
}

/// The linears of a block, by stage, and in each by the pass over all rows that captures what they read, as `room` is for it.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn stages<'p>(
    plan: &'p BlockPlan,
    capture: Capture,
    room: &Room,
) -> Result<Vec<Vec<Vec<&'p LinearPlan>>>, Error> {
    let stage = |linear: &LinearPlan| match (capture, linear.input()) {
        (Capture::Once, _) => 0,
        (Capture::Staged, Input::Attention) => 0,
        (Capture::Staged, Input::QueryLatent | Input::Latent) => 1,
        (Capture::Staged, Input::AttentionOutput) => 2,
        (Capture::Staged, Input::FeedForward | Input::Expert(_)) => 3,
        (Capture::Staged, Input::Down | Input::ExpertDown(_) | Input::SharedDown) => 4,
        (Capture::Staged, Input::Head) => 4,
    };
    let mut stages: Vec<Vec<&LinearPlan>> = vec![Vec::new(); 5];
    for linear in &plan.linears {
        stages[stage(linear)].push(linear);
    }
    stages.retain(|linears| !linears.is_empty());
    stages.into_iter().map(|stage| room.passes(stage)).collect()
}

#[cfg(test)]
mod tests {
    use super::is_held_back;

    #[test]
    fn some_rows_are_held_back_and_never_all() {
        let held = |rows: usize| (0..rows).filter(|&row| is_held_back(row, rows)).count();
        assert_eq!([0, 1, 2, 7, 8, 15, 16].map(held), [0, 0, 1, 1, 1, 1, 2]);
    }
}
