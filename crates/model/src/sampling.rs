//! Choosing the next token from logits.
//!
//! The order is that of the field's other implementations: repetition penalty, temperature, then the three filters.
//! Each filter keeps a prefix of the tokens ranked by probability, so what survives all of them is the shortest
//! prefix.

use std::collections::HashSet;

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};

use crate::Error;

mod ranked;
use ranked::Ranked;

/// How to choose the next token. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingOptions {
    /// Divides the logits; 0 chooses the most probable token and ignores the filters.
    pub temperature: f32,
    /// Keeps the `top_k` most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens, most probable first, that hold at least this share of what `top_k` left
    /// (arXiv 1904.09751); 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the most probable one (arXiv 2407.01082); 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen before (arXiv 1909.05858); 1 is neutral.
    pub repetition_penalty: f32,
    /// Seed of the draws: the same seed on the same logits draws the same tokens.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl SamplingOptions {
    fn keeps_all(&self) -> bool {
        self.top_k == 0 && self.top_p == 1.0 && self.min_p == 0.0
    }

    fn check(&self) -> Result<(), Error> {
        let checks = [
            (
                "temperature",
                self.temperature,
                self.temperature >= 0.0 && self.temperature.is_finite(),
                "a finite number of at least 0",
            ),
            (
                "top-p",
                self.top_p,
                self.top_p > 0.0 && self.top_p <= 1.0,
                "above 0 and at most 1",
            ),
            (
                "min-p",
                self.min_p,
                (0.0..=1.0).contains(&self.min_p),
                "between 0 and 1",
            ),
            (
                "repetition penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
                "a finite number above 0",
            ),
        ];
        match checks.into_iter().find(|(_, _, legal, _)| !legal) {
            None => Ok(()),
            Some((option, value, _, range)) => Err(Error::Sampling {
                option,
                value,
                range,
            }),
        }
    }
}

/// Chooses tokens under [`SamplingOptions`], remembering which were seen.
///
/// ```
/// use treillage_model::{Sampler, SamplingOptions};
///
/// let mut greedy = Sampler::new(SamplingOptions::default())?;
/// assert_eq!(greedy.sample(&[0.5, 2.0, 1.0])?, 1);
/// # Ok::<(), treillage_model::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    rng: ChaCha8Rng,
    seen: HashSet<u32>,
}

impl Sampler {
    /// A sampler that has seen no token yet.
    ///
    /// # Errors
    /// [`Error::Sampling`] naming an option outside its range.
    pub fn new(options: SamplingOptions) -> Result<Self, Error> {
        options.check()?;
        Ok(Self {
            rng: ChaCha8Rng::seed_from_u64(options.seed),
            options,
            seen: HashSet::new(),
        })
    }

    /// Remembers `ids` for the repetition penalty.
    pub fn observe(&mut self, ids: &[u32]) {
        self.seen.extend(ids);
    }

    /// Chooses a token; `logits` holds one per id. Ties go to the lowest id. The choice is not yet
    /// [observed](Self::observe).
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a logit is NaN or +∞, or none is finite.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, Error> {
        let mut logits = logits.to_vec();
        self.penalise(&mut logits);
        let best = argmax(&logits)?;
        if self.options.temperature == 0.0 {
            return Ok(best);
        }
        let uniform = self.rng.random::<f64>();
        let softmax = Tempered {
            largest: logits[best as usize].into(),
            temperature: self.options.temperature.into(),
        };
        Ok(if self.options.keeps_all() {
            let weights = (0..).zip(&logits);
            pick(
                weights.map(|(id, &logit)| (softmax.weight(logit), id)),
                uniform,
            )
        } else {
            pick(
                softmax.survivors(&logits, &self.options).into_iter(),
                uniform,
            )
        })
    }

    fn penalise(&self, logits: &mut [f32]) {
        let penalty = self.options.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for &id in &self.seen {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
    }
}

/// The id of the largest logit, the lowest of equals.
///
/// # Errors
/// [`Error::NotFinite`] if a logit is NaN or +∞, or none is finite.
pub fn argmax(logits: &[f32]) -> Result<u32, Error> {
    let mut best = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(Error::NotFinite);
        }
        if logit > best.map_or(f32::NEG_INFINITY, |(_, value)| value) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id as u32).ok_or(Error::NotFinite)
}

/// A softmax with temperature, not normalised: the most probable token has weight 1.
struct Tempered {
    largest: f64,
    temperature: f64,
}

impl Tempered {
    fn weight(&self, logit: f32) -> f64 {
        ((f64::from(logit) - self.largest) / self.temperature).exp()
    }

    /// The tokens that all filters keep and their weights, most probable first. There is at least one.
    fn survivors(&self, logits: &[f32], options: &SamplingOptions) -> Vec<(f64, u32)> {
        let mut ranked = Ranked::new(logits);
        let limit = match options.top_k {
            0 => ranked.len(),
            k => k.min(ranked.len()),
        };
        let enough = if options.top_p == 1.0 {
            f64::INFINITY
        } else if limit < ranked.len() {
            let total: f64 = (0..limit).map(|rank| self.weight(ranked.at(rank).0)).sum();
            f64::from(options.top_p) * total
        } else {
            let total: f64 = logits.iter().map(|&logit| self.weight(logit)).sum();
            f64::from(options.top_p) * total
        };
        let (mut kept, mut mass) = (Vec::new(), 0.0);
        for rank in 0..limit {
            let (logit, id) = ranked.at(rank);
            let weight = self.weight(logit);
            if mass >= enough || weight < f64::from(options.min_p) {
                break;
            }
            mass += weight;
            kept.push((weight, id));
        }
        kept
    }
}

/// The token in whose share of the weights, laid end to end, the fraction `uniform` of their sum falls.
fn pick(weights: impl Iterator<Item = (f64, u32)> + Clone, uniform: f64) -> u32 {
    let target = uniform * weights.clone().map(|(weight, _)| weight).sum::<f64>();
    let (mut upto, mut last) = (0.0, 0);
    for (weight, id) in weights.filter(|&(weight, _)| weight > 0.0) {
        upto += weight;
        last = id;
        if target < upto {
            break;
        }
    }
    // Rounding can leave the target a hair above the last sum: then it falls to the last token with any weight.
    last
}

#[cfg(test)]
mod tests;
