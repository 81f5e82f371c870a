//! What [`Inference::sample`](crate::Inference::sample) chooses, as plain Rust: backends without a device call it, the
//! others are held to it.

mod ranked;

use ranked::Ranked;

/// How to choose a token from logits. The order is that of the field's other implementations: temperature, then the
/// three filters. Each filter keeps a prefix of the tokens ranked by probability, equals by id, so what survives all of
/// them is the shortest prefix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Divides the logits; 0 chooses the most probable token, the lowest id of equals, and ignores all else.
    pub temperature: f32,
    /// Keeps the `top_k` most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens, most probable first, that hold at least this share of what `top_k` left
    /// (arXiv 1904.09751); 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the most probable one (arXiv 2407.01082); 0 keeps all.
    pub min_p: f32,
    /// Where the draw falls among the weights of what was kept, laid end to end, as a fraction of their sum: 0 up to,
    /// but not, 1. Kept tokens are laid most probable first; where all are kept, by id.
    pub uniform: f64,
}

impl Choice {
    /// The most probable token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        uniform: 0.0,
    };

    /// Chooses among `logits`, one per id. `None` if a logit is NaN or +∞, or none is finite.
    pub fn choose(&self, logits: &[f32]) -> Option<u32> {
        let best = argmax(logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        let softmax = Tempered {
            largest: logits[best as usize].into(),
            temperature: self.temperature.into(),
        };
        Some(if self.keeps_all() {
            let weights = (0..).zip(logits);
            pick(
                weights.map(|(id, &logit)| (softmax.weight(logit), id)),
                self.uniform,
            )
        } else {
            pick(softmax.survivors(logits, self).into_iter(), self.uniform)
        })
    }

    /// Whether no filter leaves out any token.
    pub fn keeps_all(&self) -> bool {
        self.top_k == 0 && self.top_p == 1.0 && self.min_p == 0.0
    }
}

/// The id of the largest logit, the lowest of equals; `None` if a logit is NaN or +∞, or none is finite.
fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return None;
        }
        if logit > best.map_or(f32::NEG_INFINITY, |(_, value)| value) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id as u32)
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
    fn survivors(&self, logits: &[f32], choice: &Choice) -> Vec<(f64, u32)> {
        let mut ranked = Ranked::new(logits);
        let limit = match choice.top_k {
            0 => ranked.len(),
            k => k.min(ranked.len()),
        };
        let enough = if choice.top_p == 1.0 {
            f64::INFINITY
        } else if limit < ranked.len() {
            let total: f64 = (0..limit).map(|rank| self.weight(ranked.at(rank).0)).sum();
            f64::from(choice.top_p) * total
        } else {
            let total: f64 = logits.iter().map(|&logit| self.weight(logit)).sum();
            f64::from(choice.top_p) * total
        };
        let (mut kept, mut mass) = (Vec::new(), 0.0);
        for rank in 0..limit {
            let (logit, id) = ranked.at(rank);
            let weight = self.weight(logit);
            if mass >= enough || weight < f64::from(choice.min_p) {
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
