//! Which experts each token goes to.

use crate::Error;

/// How a router's logits become experts and weights: the softmax over all experts, of which the largest are kept
/// (GShard, arXiv 2006.16668, §2.2; Switch Transformer, arXiv 2101.03961, §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Experts per token.
    pub top_k: usize,
    /// Whether the chosen experts' softmax weights are divided by their sum.
    pub normalize: bool,
}

/// One of a token's experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its number.
    pub expert: u32,
    /// The factor of its output.
    pub weight: f32,
}

/// The experts of each token of a batch: `top_k` distinct ones, by falling weight, the lower number first among equals.
#[derive(Clone, Debug, PartialEq)]
pub struct Routes {
    experts: usize,
    top_k: usize,
    choices: Vec<Choice>,
}

impl Routes {
    /// Tokens of the batch.
    pub fn tokens(&self) -> usize {
        self.choices.len() / self.top_k
    }

    /// Experts there are to choose from.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Experts per token.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// The experts of `token`.
    pub fn token(&self, token: usize) -> &[Choice] {
        &self.choices[token * self.top_k..][..self.top_k]
    }

    /// All choices, token by token: number `token × top_k + slot`.
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }
}

/// Chooses experts for each row of `logits`, row-major `[tokens, experts]`, in f32.
///
/// Among equal logits the lowest expert wins, so that the result does not depend on how the search is done.
///
/// # Errors
/// [`Error::TopK`], [`Error::RowLength`], and [`Error::NotFinite`] for a NaN or +∞; −∞ excludes an expert.
///
/// ```
/// use treillage_moe::{Routing, route};
///
/// let routing = Routing { top_k: 2, normalize: true };
/// let routes = route(&[0.0, 3.0, -1.0, 3.0], 4, &routing)?;
/// let experts: Vec<u32> = routes.token(0).iter().map(|c| c.expert).collect();
/// assert_eq!(experts, [1, 3]);
/// assert_eq!(routes.token(0)[0].weight, 0.5);
/// # Ok::<(), treillage_moe::Error>(())
/// ```
pub fn route(logits: &[f32], experts: usize, routing: &Routing) -> Result<Routes, Error> {
    let top_k = routing.top_k;
    if !(1..=experts).contains(&top_k) {
        return Err(Error::TopK { top_k, experts });
    }
    if !logits.len().is_multiple_of(experts) {
        return Err(Error::RowLength {
            found: logits.len(),
            experts,
        });
    }
    let mut choices = Vec::with_capacity(logits.len() / experts * top_k);
    for (token, row) in logits.chunks_exact(experts).enumerate() {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !largest.is_finite() || row.iter().any(|x| x.is_nan()) {
            return Err(Error::NotFinite { token });
        }
        let start = choices.len();
        keep_largest(row, top_k, &mut choices);
        let chosen = &mut choices[start..];
        let mut sum = 0.0;
        for choice in chosen.iter_mut() {
            choice.weight = (choice.weight - largest).exp();
            sum += choice.weight;
        }
        if !routing.normalize {
            sum = row.iter().map(|x| (x - largest).exp()).sum();
        }
        for choice in chosen {
            choice.weight /= sum;
        }
    }
    Ok(Routes {
        experts,
        top_k,
        choices,
    })
}

/// Appends the `count` largest values of `row` to `kept`, largest first; of equal values the earlier ones.
fn keep_largest(row: &[f32], count: usize, kept: &mut Vec<Choice>) {
    let start = kept.len();
    for (expert, &logit) in row.iter().enumerate() {
        let chosen = &kept[start..];
        // Values arrive by rising expert, so an equal one that is already there stays ahead.
        let behind = chosen.iter().rev().take_while(|c| c.weight < logit).count();
        let place = chosen.len() - behind;
        if place < count {
            if chosen.len() == count {
                kept.pop();
            }
            kept.insert(
                start + place,
                Choice {
                    expert: expert as u32,
                    weight: logit,
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_logits_go_to_the_lowest_experts() {
        let routing = Routing {
            top_k: 3,
            normalize: false,
        };
        let routes = route(&[1.0; 8], 8, &routing).unwrap();
        let experts: Vec<u32> = routes.token(0).iter().map(|c| c.expert).collect();
        assert_eq!(experts, [0, 1, 2]);
        assert!(routes.token(0).iter().all(|c| c.weight == 0.125));
    }

    #[test]
    fn excluded_experts_weigh_nothing() {
        let routing = Routing {
            top_k: 2,
            normalize: true,
        };
        let routes = route(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 3, &routing).unwrap();
        assert_eq!(
            routes.token(0),
            [(1, 1.0), (0, 0.0)].map(|(expert, weight)| Choice { expert, weight })
        );
    }

    #[test]
    fn bad_requests_are_refused() {
        let routing = |top_k| Routing {
            top_k,
            normalize: true,
        };
        let refused = |logits: &[f32], top_k| route(logits, 2, &routing(top_k)).unwrap_err();
        assert_eq!(
            refused(&[0.0, 0.0], 0),
            Error::TopK {
                top_k: 0,
                experts: 2
            }
        );
        assert_eq!(
            refused(&[0.0, 0.0], 3),
            Error::TopK {
                top_k: 3,
                experts: 2
            }
        );
        assert_eq!(
            refused(&[0.0; 3], 1),
            Error::RowLength {
                found: 3,
                experts: 2
            }
        );
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(
                refused(&[0.0, 1.0, 2.0, bad], 1),
                Error::NotFinite { token: 1 }
            );
        }
        assert!(route(&[f32::NEG_INFINITY; 2], 2, &routing(1)).is_err());
    }

    /// The obvious way to do what [`route`] does: the whole softmax, sorted.
    fn route_by_sorting(logits: &[f32], experts: usize, routing: &Routing) -> Vec<Choice> {
        let mut choices = Vec::new();
        for row in logits.chunks_exact(experts) {
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = row.iter().map(|x| (x - largest).exp()).sum();
            // A stable sort, so that the lower of two equal experts stays ahead.
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap());
            order.truncate(routing.top_k);
            let weight = |e: usize| (row[e] - largest).exp() / total;
            let sum: f32 = order.iter().map(|&e| weight(e)).sum();
            let divisor = if routing.normalize { sum } else { 1.0 };
            choices.extend(order.iter().map(|&e| Choice {
                expert: e as u32,
                weight: weight(e) / divisor,
            }));
        }
        choices
    }

    fn batch() -> impl Strategy<Value = (Vec<f32>, usize, Routing)> {
        (1usize..40, 0usize..6)
            .prop_flat_map(|(experts, tokens)| {
                // Few distinct values, so that ties are common.
                let logit = prop_oneof![(-4i8..4).prop_map(f32::from), -20.0f32..20.0];
                let logits = prop::collection::vec(logit, experts * tokens);
                (logits, Just(experts), 1..=experts, any::<bool>())
            })
            .prop_map(|(logits, experts, top_k, normalize)| {
                (logits, experts, Routing { top_k, normalize })
            })
    }

    proptest! {
        #[test]
        fn routing_equals_sorting((logits, experts, routing) in batch()) {
            let routes = route(&logits, experts, &routing).unwrap();
            let slow = route_by_sorting(&logits, experts, &routing);
            prop_assert_eq!(routes.choices().len(), slow.len());
            for (a, b) in routes.choices().iter().zip(&slow) {
                prop_assert_eq!(a.expert, b.expert);
                prop_assert!((a.weight - b.weight).abs() <= 1e-6, "{} and {}", a.weight, b.weight);
            }
        }

        #[test]
        fn normalised_weights_sum_to_one((logits, experts, routing) in batch()) {
            let routes = route(&logits, experts, &Routing { normalize: true, ..routing }).unwrap();
            for token in 0..routes.tokens() {
                let sum: f32 = routes.token(token).iter().map(|c| c.weight).sum();
                prop_assert!((sum - 1.0).abs() < 1e-5);
            }
        }
    }
}
