//! Choosing the next token: a penalty on what was seen, then a [`Choice`], which a backend can make on its device.

use std::collections::HashSet;

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};
use treillage_backend::Choice;

use crate::Error;

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
        self.draw().choose(&logits).ok_or(Error::NotFinite)
    }

    /// The next choice, for a backend to make. `None` where a penalty must see the logits first.
    pub fn choice(&mut self) -> Option<Choice> {
        (self.options.repetition_penalty == 1.0).then(|| self.draw())
    }

    fn draw(&mut self) -> Choice {
        let SamplingOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = self.options;
        let uniform = match temperature {
            0.0 => 0.0,
            _ => self.rng.random::<f64>(),
        };
        Choice {
            temperature,
            top_k,
            top_p,
            min_p,
            uniform,
        }
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

#[cfg(test)]
mod tests;
