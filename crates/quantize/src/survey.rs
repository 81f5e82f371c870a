//! Rotations that are chosen for the whole model, before any of it is quantized.

use serde::{Deserialize, Serialize};
use treillage_backend::Quantization;
use treillage_checkpoint::Checkpoint;
use treillage_gptq::{Config, Rotation};
use treillage_model::{
    Block, Embedding,
    plan::{LinearPlan, ModelPlan, Space},
};

use crate::{
    CalibrationTokens, Error, Event, Fold, Folded, GptqOptions, Recipe, RotationRule,
    block::{Watched, kinds},
    passes::Room,
    rotation::{self, of_block},
    stream::Stream,
    trial::{self, Split},
};

/// Calibration rows that the survey looks at, half of them to measure errors with.
const ROWS: usize = 32;

/// The rotations of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rotations {
    /// Those that the model takes up.
    pub(crate) fold: Fold,
    /// The one that linears may have by themselves, 1 for none.
    online: usize,
}

impl Rotations {
    /// What `options` ask for, unless they leave it to a survey.
    pub(crate) fn fixed(options: &GptqOptions, plan: &ModelPlan) -> Option<Self> {
        let RotationRule::Fixed(rotation) = options.rotation else {
            return None;
        };
        let block = rotation::block(rotation);
        Some(match rotation {
            Rotation::None => Self::default(),
            _ if options.rotates_online() => Self {
                online: block,
                ..Self::default()
            },
            _ => Self {
                fold: Fold {
                    residual: Some(rotation),
                    // Heads that are too narrow for it stay as they are.
                    values: match plan.value_dim {
                        Some(dim) if dim.is_multiple_of(block) => {
                            vec![rotation; plan.blocks.len()]
                        }
                        _ => Vec::new(),
                    },
                },
                ..Self::default()
            },
        })
    }

    /// What linears may rotate their inputs with: of several, each kind of input gets the best for it.
    pub(crate) fn online(&self, rule: RotationRule) -> Vec<Rotation> {
        match (rule, of_block(self.online.max(1))) {
            (_, Rotation::None) => Vec::new(),
            (RotationRule::Auto, online) => vec![Rotation::None, online],
            (RotationRule::Fixed(_), online) => vec![online],
        }
    }

    /// The one that linears may have by themselves.
    pub(crate) fn online_block(&self) -> Option<usize> {
        Some(self.online).filter(|&block| block > 1)
    }
}

/// What a survey is made of.
pub(crate) struct Survey<'a, B> {
    pub(crate) backend: &'a B,
    pub(crate) source: &'a Checkpoint,
    pub(crate) plan: &'a ModelPlan,
    pub(crate) tokens: &'a CalibrationTokens,
    pub(crate) recipe: &'a Recipe,
    pub(crate) memory: Option<u64>,
    pub(crate) options: &'a GptqOptions,
    pub(crate) config: &'a Config,
}

impl<B: Quantization> Survey<'_, B> {
    /// Sends a few rows through the unquantized model, and chooses the rotations of least error: where linears rotate
    /// their inputs by themselves, one size for all; otherwise that of the residual stream, and for each block that of
    /// its values.
    pub(crate) fn run(&self, events: &mut dyn FnMut(Event)) -> Result<Rotations, Error> {
        let config = self.source.config();
        let online = self.options.rotates_online();
        let candidates = match online {
            true => self.options.online_candidates(self.plan),
            false => rotation::candidates(config.hidden_size),
        };
        let value_candidates = match (online, self.plan.value_dim) {
            (false, Some(head_dim)) => rotation::candidates(head_dim),
            _ => Vec::new(),
        };
        // Rotations go with the gains of the norms in the linears behind them; no rotation leaves both alone.
        let gainless = Fold {
            residual: (!online).then_some(Rotation::None),
            values: Vec::new(),
        };
        let gainless = Folded::new(self.source, self.plan, gainless)?;
        let plain = Folded::new(self.source, self.plan, Fold::default())?;

        let rows = self.tokens.sample(ROWS);
        let embedding = Embedding::load(self.backend, &gainless, config)?;
        let mut stream = Stream::embed(self.backend, &embedding, &rows, config.hidden_size)?;
        drop(embedding);
        let mut sums = vec![0.0; candidates.len()];
        let mut values = Vec::with_capacity(self.plan.blocks.len());
        for block in &self.plan.blocks {
            events(Event::Surveyed {
                block: block.index,
                blocks: self.plan.blocks.len(),
            });
            // Nothing can take a rotation up before a nonlinearity, but the linear behind it.
            let turns = |linear: &&LinearPlan| online || linear.reads() != Space::Fixed;
            let linears: Vec<&LinearPlan> = block.linears.iter().filter(turns).collect();
            // Of the experts those that fit into memory speak for all.
            let room = Room::new(self.memory, block, stream.bytes());
            let linears = room.passes(linears)?.swap_remove(0);
            let (backend, index) = (self.backend, block.index);
            let watched = Watched::new(
                backend,
                &gainless,
                config,
                self.recipe,
                index,
                &linears,
                // Its rows go on from it.
                Block::load,
            )?;
            let split = observe(&watched, &stream)?;
            for linears in kinds(&linears) {
                match linears[0].reads() {
                    Space::Values if !online => {
                        let tried = &value_candidates;
                        let errors =
                            trial::errors(&plain, &linears, &split, None, tried, self.config)?;
                        values.push(errors.map_or(Rotation::None, |e| trial::best(tried, &e)));
                    }
                    _ => {
                        let tried = &candidates;
                        let mut errors =
                            trial::errors(&gainless, &linears, &split, None, tried, self.config)?;
                        if let (Some(errors), false) = (&mut errors, online) {
                            errors[0] = self.unfolded(&plain, &linears, &split)?;
                        }
                        for (sum, error) in sums.iter_mut().zip(errors.into_iter().flatten()) {
                            *sum += error;
                        }
                    }
                }
            }
            drop(split);
            stream.advance(self.backend, watched.block(), block.index, |_| ())?;
            self.source.evict(&format!("model.layers.{}.", block.index));
        }
        let best = trial::best(&candidates, &sums);
        Ok(match online {
            true => Rotations {
                online: rotation::block(best),
                fold: Fold::default(),
            },
            false => Rotations {
                online: 1,
                fold: Fold {
                    residual: Some(best).filter(|&best| best != Rotation::None),
                    values,
                },
            },
        })
    }

    /// The error of `linears` with the gain of the norm where it was, from what was seen without.
    fn unfolded(
        &self,
        plain: &Folded<'_>,
        linears: &[&LinearPlan],
        split: &Split,
    ) -> Result<f64, Error> {
        let tried = [Rotation::None];
        let errors = match &linears[0].norm {
            Some(norm) => {
                let width = linears[0].shape.in_features;
                let gain = norm.gains(self.source.vector(&norm.name, width)?);
                trial::errors(plain, linears, split, Some(&gain), &tried, self.config)?
            }
            None => trial::errors(plain, linears, split, None, &tried, self.config)?,
        };
        Ok(errors.map_or(0.0, |errors| errors[0]))
    }
}

/// Sends the rows through a block, every other one to measure errors with.
fn observe<B: Quantization>(watched: &Watched<'_, B>, stream: &Stream) -> Result<Split, Error> {
    let is_even = |row: usize| row.is_multiple_of(2);
    Ok(Split {
        fit: watched.observe(stream, is_even, &mut || ())?,
        held_out: watched.observe(stream, |row| !is_even(row), &mut || ())?,
    })
}
