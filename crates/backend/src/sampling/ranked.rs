/// Tokens ranked by logit, descending, equals by id; sorted only as far as asked, because a vocabulary has 150,000
/// tokens of which a draw looks at a few.
pub(super) struct Ranked {
    tokens: Vec<(f32, u32)>,
    sorted: usize,
}

impl Ranked {
    /// The ids of `logits`, none of them NaN.
    pub(super) fn new(logits: &[f32]) -> Self {
        Self {
            // Adding zero makes -0 equal 0 in a total order, as it is elsewhere.
            tokens: logits.iter().map(|logit| logit + 0.0).zip(0..).collect(),
            sorted: 0,
        }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The token at `rank`, counted from 0, and its logit.
    pub(super) fn at(&mut self, rank: usize) -> (f32, u32) {
        while self.sorted <= rank {
            let more = (7 * self.sorted).max(32);
            let rest = &mut self.tokens[self.sorted..];
            let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_full_sort(logits in prop::collection::vec((-3i8..3).prop_map(f32::from), 1..600), reads in prop::collection::vec(any::<prop::sample::Index>(), 1..8)) {
            let mut sorted: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
            // Stable, so equals stay in the order of their ids.
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut ranked = Ranked::new(&logits);
            prop_assert_eq!(ranked.len(), logits.len());
            for read in reads {
                let rank = read.index(logits.len());
                prop_assert_eq!(ranked.at(rank), sorted[rank]);
            }
        }
    }

    #[test]
    fn zeros_of_both_signs_are_equal() {
        let mut ranked = Ranked::new(&[-0.0, 0.0]);
        assert_eq!((ranked.at(0).1, ranked.at(1).1), (0, 1));
    }
}
