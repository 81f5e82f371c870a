//! How much errors in each linear would cost, before any of it is quantized.
//!
//! The error of a linear is small noise on its weights, and what that costs, the divergence of the model's predictions
//! from those of the original, grows with the noise's variance. Two questions remain, and each has its measurement:
//!
//! - *How much does a kind of linears matter to the predictions?* Noise as large as quantization's is put into all
//!   linears of a block that play one role, and a few rows go through the rest of the model, whose divergence is
//!   measured. The rows of all blocks and roles travel together, so that a block is in memory once.
//! - *How is that spread among experts, and how much of such noise remains when the encoder feeds errors forward?* That is
//!   told by second moments of inputs `H`, each token counted with the square of its routing weight: noise costs
//!   `tr(Eᵀ H E)`, and feedback brings that from the arithmetic down to the geometric mean of the eigenvalues of `H`.

use std::collections::{BTreeMap, HashMap};

use treillage_backend::Quantization;
use treillage_linalg::{Damping, cholesky};
use treillage_model::{
    Block, Embedding, Head,
    evaluate::mean_divergence,
    plan::{BlockPlan, LinearPlan, ModelPlan, Role},
};

use crate::{
    CalibrationTokens, Error, Event, Folded, Recipe,
    block::{Watched, needed},
    noise::{Noisy, channel_power},
    passes::Room,
    statistics::Statistics,
    stream::Stream,
};

/// Rows whose second moments are taken.
const ROWS: usize = 32;
/// Rows that go through the model with noise, at most, and tokens of each.
const NOISY_ROWS: usize = 16;
const NOISY_COLS: usize = 256;
/// What those rows may take in memory, in all their copies; one row there always is.
const MOST_BYTES: usize = 1 << 31;

/// For each linear, by prefix: nats of divergence per token for a relative squared error of one, in the linear range.
pub(crate) type Sensitivities = HashMap<String, f64>;

/// What a survey is made of.
pub(crate) struct SensitivitySurvey<'a, B> {
    pub(crate) backend: &'a B,
    pub(crate) source: &'a Folded<'a>,
    pub(crate) plan: &'a ModelPlan,
    pub(crate) tokens: &'a CalibrationTokens,
    pub(crate) damping: f32,
    pub(crate) memory: Option<u64>,
    /// Mean squared error of the noise, relative to the weights' mean square.
    pub(crate) noise: f64,
}

/// Linears of a block that play one role, and the rows that went through their noise.
struct Group<'p> {
    linears: Vec<&'p LinearPlan>,
    /// For each linear, its parts of the cost: of noise, and of what feedback leaves of it.
    costs: Vec<Cost>,
    stream: Stream,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    noise: f64,
    encoded: f64,
}

/// What is known of a linear.
struct Seen {
    /// How much the tokens that it saw count together.
    weight: f64,
    tokens: u64,
    /// For each token and output.
    cost: Cost,
}

impl<B: Quantization> SensitivitySurvey<'_, B> {
    /// Goes through the model once.
    pub(crate) fn run(&self, events: &mut dyn FnMut(Event)) -> Result<Sensitivities, Error> {
        let (backend, source) = (self.backend, self.source);
        let config = source.source().config();
        let embedding = Embedding::load(backend, source, config)?;
        let embed = |tokens: &CalibrationTokens| {
            Stream::embed(backend, &embedding, tokens, config.hidden_size)
        };
        let mut calibration = embed(&self.tokens.sample(ROWS))?;
        let mut clean = embed(&self.tokens.excerpt(self.noisy_rows(), NOISY_COLS))?;
        drop(embedding);
        // Experts count by what the router makes of them, whatever they will be calibrated with.
        let recipe = Recipe::treillage();
        let mut groups: Vec<Group<'_>> = Vec::new();
        for plan in &self.plan.blocks {
            let index = plan.index;
            events(Event::Surveyed {
                block: index,
                blocks: self.plan.blocks.len(),
            });
            let room = Room::new(self.memory, plan, calibration.bytes() + self.most_bytes());
            let mut seen = HashMap::new();
            for linears in room.passes(plan.linears.iter().collect())? {
                let load = needed(&linears);
                let watched =
                    Watched::new(backend, source, config, &recipe, index, &linears, load)?;
                let gathered = watched.observe(&calibration, |_| true, &mut || ())?;
                drop(watched);
                for linear in linears {
                    seen.insert(linear.prefix.as_str(), self.look_at(linear, &gathered)?);
                }
            }
            let block = Block::load(backend, source, config, index)?;
            calibration.advance(backend, &block, index, |_| ())?;
            for group in &mut groups {
                group.stream.advance(backend, &block, index, |_| ())?;
            }
            for linears in by_role(plan) {
                let noisy = Noisy::new(source, &linears, self.noise);
                let noisy = Block::load(backend, &noisy, config, index)?;
                let mut stream = clean.clone();
                stream.advance(backend, &noisy, index, |_| ())?;
                groups.push(Group {
                    costs: costs(&linears, &seen),
                    linears,
                    stream,
                });
            }
            clean.advance(backend, &block, index, |_| ())?;
            source.source().evict(&format!("model.layers.{index}."));
        }
        self.sensitivities(&groups, &clean)
    }

    /// As many rows as their copies fit into memory.
    fn noisy_rows(&self) -> usize {
        let groups: usize = self.plan.blocks.iter().map(|b| by_role(b).len()).sum();
        let width = self.source.source().config().hidden_size;
        let row = (groups + 1) * NOISY_COLS.min(self.tokens.cols()) * width * size_of::<f32>();
        (self.most_bytes() / row.max(1)).clamp(1, NOISY_ROWS)
    }

    /// What they may take there: a quarter of it, if it is limited.
    fn most_bytes(&self) -> usize {
        let quarter = self.memory.map(|bytes| bytes / 4);
        quarter.map_or(MOST_BYTES, |bytes| MOST_BYTES.min(bytes as usize))
    }

    /// What `linear` costs for each token that it sees.
    fn look_at(&self, linear: &LinearPlan, seen: &Statistics) -> Result<Seen, Error> {
        let inputs = linear.shape.in_features;
        let power = channel_power(&self.source.linear(&linear.prefix)?.0.to_f32(), inputs);
        let cost = match seen.of(linear.input())?.hessian {
            // Nothing is known of its input, but that it was none.
            None => Cost::default(),
            Some(hessian) => {
                let diagonal = hessian.diagonal();
                let noise: f64 = diagonal
                    .iter()
                    .zip(&power)
                    .map(|(h, p)| f64::from(*h) * p)
                    .sum();
                let encoded = match cholesky(&hessian, Damping::new(self.damping)) {
                    Ok(factor) => {
                        let pivots = factor.lower.diagonal();
                        let pivots = pivots.iter().map(|pivot| f64::from(*pivot).powi(2));
                        inputs as f64 * geometric_mean(pivots) * geometric_mean(power.into_iter())
                    }
                    // It will be encoded without feedback.
                    Err(_) => noise,
                };
                Cost { noise, encoded }
            }
        };
        Ok(Seen {
            weight: seen.weight(linear.input()),
            tokens: seen.tokens(linear.input()),
            cost,
        })
    }

    fn sensitivities(&self, groups: &[Group<'_>], clean: &Stream) -> Result<Sensitivities, Error> {
        let (backend, source) = (self.backend, self.source);
        let head = Head::load(backend, source, source.source().config())?;
        let logits = |x: Result<B::Tensor, Error>| -> Result<Vec<f32>, Error> {
            Ok(backend.read(&head.forward(backend, &x?)?)?)
        };
        // Row by row, as logits may be large.
        let mut divergences = vec![0.0; groups.len()];
        let mut rows: Vec<_> = groups.iter().map(|g| g.stream.rows(backend)).collect();
        for reference in clean.rows(backend) {
            let reference = logits(reference)?;
            for (sum, row) in divergences.iter_mut().zip(&mut rows) {
                if let Some(row) = row.next() {
                    *sum += mean_divergence(&reference, &logits(row)?, head.vocabulary());
                }
            }
        }
        let mut sensitivities = Sensitivities::new();
        for (group, sum) in groups.iter().zip(divergences) {
            let measured = sum.max(0.0) / clean.len() as f64 / self.noise;
            let whole: f64 = group.costs.iter().map(|cost| cost.noise).sum();
            for (linear, cost) in group.linears.iter().zip(&group.costs) {
                let part = if whole > 0.0 {
                    cost.encoded / whole
                } else {
                    0.0
                };
                sensitivities.insert(linear.prefix.clone(), measured * part);
            }
        }
        Ok(sensitivities)
    }
}

/// Each linear's cost.
fn costs(linears: &[&LinearPlan], seen: &HashMap<&str, Seen>) -> Vec<Cost> {
    let of_these = || {
        linears
            .iter()
            .filter_map(|l| Some((l, seen.get(l.prefix.as_str())?)))
    };
    let total: f64 = of_these().map(|(_, seen)| seen.weight).sum();
    let tokens: u64 = of_these().map(|(_, seen)| seen.tokens).sum();
    // One more average token each: what was not seen is rare, not impossible.
    let prior = total / tokens.max(1) as f64;
    let costs = of_these().map(|(linear, Seen { weight, cost, .. })| {
        let scale = (weight + prior) * linear.shape.out_features as f64;
        Cost {
            noise: scale * cost.noise,
            encoded: scale * cost.encoded,
        }
    });
    costs.collect()
}

/// The linears of a block by what they do.
fn by_role(plan: &BlockPlan) -> Vec<Vec<&LinearPlan>> {
    let mut roles: BTreeMap<Role, Vec<&LinearPlan>> = BTreeMap::new();
    for linear in &plan.linears {
        roles.entry(linear.role).or_default().push(linear);
    }
    roles.into_values().collect()
}

/// Of the values that are not zero; zero if all are.
fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0u32);
    for value in values.filter(|value| *value > 0.0) {
        sum += value.ln();
        count += 1;
    }
    match count {
        0 => 0.0,
        _ => (sum / f64::from(count)).exp(),
    }
}
