//! Which experts each token goes to.

use crate::Error;

/// How a router's logits become experts and weights.
///
/// Logits become scores; the experts of the largest ones are kept, after a correction that has a say in the choice alone
/// (arXiv 2408.15664, §2); their own scores become weights, divided by their sum if asked for, and scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts per token.
    pub top_k: usize,
    /// What logits become.
    pub scoring: Scoring,
    /// Whether the chosen experts' scores are divided by their sum.
    pub normalize: bool,
    /// Factor of the weights, after that.
    pub scale: f32,
    /// Limits the choice to the best groups of experts.
    pub limit: Option<GroupLimit>,
}

impl Routing {
    /// The softmax over all experts, of which the `top_k` largest are kept.
    pub fn softmax(top_k: usize, normalize: bool) -> Self {
        Self {
            top_k,
            scoring: Scoring::Softmax,
            normalize,
            scale: 1.0,
            limit: None,
        }
    }

    /// Whether the order of the logits is that of the scores.
    fn ranks_logits(&self) -> bool {
        self.scoring == Scoring::Softmax && self.limit.is_none()
    }

    /// Checks that it can choose from `experts` experts, whose scores `correction` values correct, if any do.
    ///
    /// # Errors
    /// [`Error::TopK`], [`Error::Groups`], [`Error::Correction`].
    pub fn check(&self, experts: usize, correction: Option<usize>) -> Result<(), Error> {
        let top_k = self.top_k;
        if !(1..=experts).contains(&top_k) {
            return Err(Error::TopK { top_k, experts });
        }
        if let Some(GroupLimit { groups, kept }) = self.limit {
            let fits = (1..=groups).contains(&kept)
                && experts.is_multiple_of(groups)
                && top_k <= experts / groups * kept;
            if !fits {
                return Err(Error::Groups {
                    groups,
                    kept,
                    top_k,
                    experts,
                });
            }
        }
        match correction {
            Some(found) if found != experts => Err(Error::Correction { found, experts }),
            _ => Ok(()),
        }
    }
}

/// What logits become before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Shares of one (GShard, arXiv 2006.16668, §2.2; Switch Transformer, arXiv 2101.03961, §2.1).
    Softmax,
    /// Each by itself, `1 / (1 + e^-x)` (DeepSeek-V3, arXiv 2412.19437, §2.1.2).
    Sigmoid,
}

/// Experts side by side are a group; a token goes to experts of the best groups alone, those whose two best corrected
/// scores have the largest sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimit {
    /// Groups of equal size.
    pub groups: usize,
    /// Groups that a token may go to.
    pub kept: usize,
}

/// One of a token's experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its number.
    pub expert: u32,
    /// The factor of its output.
    pub weight: f32,
}

/// The experts of each token of a batch: `top_k` distinct ones, by falling corrected score, the lower number
/// first among equals.
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

/// Chooses experts for each row of `logits`, row-major `[tokens, experts]`, in f32; `correction`, one value per expert, is
/// added to the scores while they are compared.
///
/// Among equal scores the lowest expert wins, so that the result does not depend on how the search is done.
///
/// # Errors
/// [`Error::TopK`], [`Error::Groups`], [`Error::Correction`], [`Error::RowLength`], and [`Error::NotFinite`] for a NaN or
/// +∞; −∞ excludes an expert from a softmax.
///
/// ```
/// use treillage_moe::{Routing, route};
///
/// let routing = Routing::softmax(2, true);
/// let routes = route(&[0.0, 3.0, -1.0, 3.0], 4, &routing, None)?;
/// let experts: Vec<u32> = routes.token(0).iter().map(|c| c.expert).collect();
/// assert_eq!(experts, [1, 3]);
/// assert_eq!(routes.token(0)[0].weight, 0.5);
/// # Ok::<(), treillage_moe::Error>(())
/// ```
pub fn route(
    logits: &[f32],
    experts: usize,
    routing: &Routing,
    correction: Option<&[f32]>,
) -> Result<Routes, Error> {
    routing.check(experts, correction.map(<[f32]>::len))?;
    if !logits.len().is_multiple_of(experts) {
        return Err(Error::RowLength {
            found: logits.len(),
            experts,
        });
    }
    let top_k = routing.top_k;
    let mut choices = Vec::with_capacity(logits.len() / experts * top_k);
    let mut scores = vec![0.0; experts];
    let mut ranked = vec![0.0; experts];
    for (token, row) in logits.chunks_exact(experts).enumerate() {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !largest.is_finite() || row.iter().any(|x| x.is_nan()) {
            return Err(Error::NotFinite { token });
        }
        for (score, x) in scores.iter_mut().zip(row) {
            *score = match routing.scoring {
                Scoring::Softmax => (x - largest).exp(),
                Scoring::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            };
        }
        let total = match routing.scoring {
            Scoring::Softmax => scores.iter().sum(),
            Scoring::Sigmoid => 1.0,
        };
        if correction.is_none() && routing.ranks_logits() {
            ranked.copy_from_slice(row);
        } else {
            for (e, ranked) in ranked.iter_mut().enumerate() {
                *ranked = scores[e] / total + correction.map_or(0.0, |c| c[e]);
            }
            if let Some(limit) = routing.limit {
                exclude_groups(&mut ranked, limit);
            }
        }
        let start = choices.len();
        keep_largest(&ranked, top_k, &mut choices);
        let chosen = &mut choices[start..];
        for choice in chosen.iter_mut() {
            choice.weight = scores[choice.expert as usize];
        }
        let divisor = match routing.normalize {
            true => chosen.iter().map(|c| c.weight).sum::<f32>() + f32::MIN_POSITIVE,
            false => total,
        };
        for choice in chosen {
            choice.weight = choice.weight / divisor * routing.scale;
        }
    }
    Ok(Routes {
        experts,
        top_k,
        choices,
    })
}

/// Puts the experts outside the best groups behind all others.
fn exclude_groups(ranked: &mut [f32], GroupLimit { groups, kept }: GroupLimit) {
    let size = ranked.len() / groups;
    let mut best = Vec::with_capacity(groups);
    for group in ranked.chunks_exact(size) {
        let mut two = Vec::with_capacity(3);
        keep_largest(group, 2.min(size), &mut two);
        best.push(two.iter().map(|c| c.weight).sum::<f32>());
    }
    let mut keep = Vec::with_capacity(kept + 1);
    keep_largest(&best, kept, &mut keep);
    for (number, group) in ranked.chunks_exact_mut(size).enumerate() {
        if keep.iter().all(|k| k.expert as usize != number) {
            group.fill(f32::NEG_INFINITY);
        }
    }
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
        let routing = Routing::softmax(3, false);
        let routes = route(&[1.0; 8], 8, &routing, None).unwrap();
        let experts: Vec<u32> = routes.token(0).iter().map(|c| c.expert).collect();
        assert_eq!(experts, [0, 1, 2]);
        assert!(routes.token(0).iter().all(|c| c.weight == 0.125));
    }

    #[test]
    fn excluded_experts_weigh_nothing() {
        let routing = Routing::softmax(2, true);
        let routes = route(
            &[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY],
            3,
            &routing,
            None,
        )
        .unwrap();
        assert_eq!(
            routes.token(0),
            [(1, 1.0), (0, 0.0)].map(|(expert, weight)| Choice { expert, weight })
        );
    }

    #[test]
    fn bad_requests_are_refused() {
        let routing = |top_k| Routing::softmax(top_k, true);
        let refused = |logits: &[f32], top_k| route(logits, 2, &routing(top_k), None).unwrap_err();
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
        assert!(route(&[f32::NEG_INFINITY; 2], 2, &routing(1), None).is_err());
    }

    /// Sigmoid scores, with everything that DeepSeek-V3's router has, by hand.
    #[test]
    fn corrected_scores_choose_and_scores_weigh() {
        let logit = |score: f32| (score / (1.0 - score)).ln();
        let logits = [0.5, 0.6, 0.9, 0.1, 0.3, 0.4].map(logit);
        let correction = [0.5, 0.0, 0.0, 0.0, 0.0, 0.45];
        let limit = GroupLimit { groups: 3, kept: 2 };
        let routing = Routing {
            scoring: Scoring::Sigmoid,
            scale: 1.8,
            limit: Some(limit),
            ..Routing::softmax(2, true)
        };
        // Groups score 1.0 + 0.6, 0.9 + 0.1 and 0.85 + 0.3, so that the largest score of all is left out.
        let routes = route(&logits, 6, &routing, Some(&correction)).unwrap();
        let [first, second] = routes.token(0) else {
            unreachable!("two were asked for")
        };
        assert_eq!((first.expert, second.expert), (0, 5));
        assert!((first.weight - 1.8 * 0.5 / 0.9).abs() < 1e-6);
        assert!((second.weight - 1.8 * 0.4 / 0.9).abs() < 1e-6);

        let plain = Routing {
            normalize: false,
            limit: None,
            ..routing
        };
        let routes = route(&logits, 6, &plain, None).unwrap();
        assert_eq!(routes.token(0)[0].expert, 2);
        assert!((routes.token(0)[0].weight - 1.8 * 0.9).abs() < 1e-6);
    }

    #[test]
    fn misshapen_limits_and_corrections_are_refused() {
        let limited = |groups, kept| Routing {
            limit: Some(GroupLimit { groups, kept }),
            ..Routing::softmax(2, true)
        };
        for (groups, kept) in [(3, 1), (0, 0), (2, 0), (2, 3), (4, 1)] {
            let refused = route(&[0.0; 4], 4, &limited(groups, kept), None);
            assert!(matches!(refused, Err(Error::Groups { .. })));
        }
        assert!(route(&[0.0; 4], 4, &limited(2, 1), None).is_ok());
        let refused = route(&[0.0; 4], 4, &limited(2, 1), Some(&[0.0; 3]));
        assert!(matches!(refused, Err(Error::Correction { .. })));
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
                (logits, experts, Routing::softmax(top_k, normalize))
            })
    }

    proptest! {
        #[test]
        fn routing_equals_sorting((logits, experts, routing) in batch()) {
            let routes = route(&logits, experts, &routing, None).unwrap();
            let slow = route_by_sorting(&logits, experts, &routing);
            prop_assert_eq!(routes.choices().len(), slow.len());
            for (a, b) in routes.choices().iter().zip(&slow) {
                prop_assert_eq!(a.expert, b.expert);
                prop_assert!((a.weight - b.weight).abs() <= 1e-6, "{} and {}", a.weight, b.weight);
            }
        }

        #[test]
        fn normalised_weights_sum_to_one((logits, experts, routing) in batch()) {
            let routes = route(&logits, experts, &Routing { normalize: true, ..routing }, None).unwrap();
            for token in 0..routes.tokens() {
                let sum: f32 = routes.token(token).iter().map(|c| c.weight).sum();
                prop_assert!((sum - 1.0).abs() < 1e-5);
            }
        }
    }
}
