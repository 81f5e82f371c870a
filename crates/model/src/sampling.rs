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
        let best = argmax(&logits)?;
        if self.options.temperature == 0.0 {
            return Ok(best);
        }
        let mut ranked = Ranked::new(&logits, logits[best as usize], self.options.temperature);
        let survivors = survivors(&mut ranked, &self.options);
        let draw = self.rng.random::<f64>() * survivors.mass;
        Ok(ranked.pick(draw, survivors.count))
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

/// What is left of a distribution after the filters.
struct Survivors {
    /// Leading tokens of the ranking.
    count: usize,
    /// The sum of their weights.
    mass: f64,
}

fn survivors(ranked: &mut Ranked, options: &SamplingOptions) -> Survivors {
    let all = ranked.tokens.len();
    let limit = match options.top_k {
        0 => all,
        k => k.min(all),
    };
    let total = if limit < all {
        (0..limit).map(|rank| ranked.weight(rank)).sum()
    } else {
        ranked.total()
    };
    let filtered = options.top_p < 1.0 || options.min_p > 0.0;
    if !filtered {
        return Survivors {
            count: limit,
            mass: total,
        };
    }
    let enough = if options.top_p < 1.0 {
        f64::from(options.top_p) * total
    } else {
        f64::INFINITY
    };
    let (mut count, mut mass) = (0, 0.0);
    // Weights are relative to the largest, which is 1, so the first token always survives.
    while count < limit && mass < enough && ranked.weight(count) >= f64::from(options.min_p) {
        mass += ranked.weight(count);
        count += 1;
    }
    Survivors { count, mass }
}

/// Tokens ranked by weight, descending, equals by id; sorted only as far as asked, because a vocabulary has 150,000
/// tokens of which a draw looks at a few.
struct Ranked {
    tokens: Vec<(f64, u32)>,
    sorted: usize,
}

impl Ranked {
    /// Weights `exp((logit - largest) / temperature)`.
    fn new(logits: &[f32], largest: f32, temperature: f32) -> Self {
        let weight =
            |logit: f32| ((f64::from(logit) - f64::from(largest)) / f64::from(temperature)).exp();
        Self {
            tokens: (0u32..)
                .zip(logits)
                .map(|(id, &logit)| (weight(logit), id))
                .collect(),
            sorted: 0,
        }
    }

    fn total(&self) -> f64 {
        self.tokens.iter().map(|&(weight, _)| weight).sum()
    }

    fn weight(&mut self, rank: usize) -> f64 {
        self.at(rank).0
    }

    fn at(&mut self, rank: usize) -> (f64, u32) {
        while self.sorted <= rank {
            let more = (7 * self.sorted).max(32);
            let rest = &mut self.tokens[self.sorted..];
            let order = |a: &(f64, u32), b: &(f64, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
            let head = if more < rest.len() {
                rest.select_nth_unstable_by(more, order).0
            } else {
                rest
            };
            head.sort_unstable_by(order);
            self.sorted += head.len();
        }
        self.tokens[rank]
    }

    /// The token in whose share of the first `count` weights, laid end to end, `draw` falls.
    fn pick(&mut self, draw: f64, count: usize) -> u32 {
        let (mut upto, mut last) = (0.0, 0);
        for rank in 0..count {
            let (weight, id) = self.at(rank);
            // Rounding can leave the draw a hair above the sum of all weights: then it falls to the last of them.
            if weight == 0.0 {
                break;
            }
            upto += weight;
            last = id;
            if draw < upto {
                break;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests;
