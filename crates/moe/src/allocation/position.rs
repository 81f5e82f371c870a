//! Rates by where linears are, whatever they weigh.

use super::{Allocation, AllocationError, budget};

/// Linears that take one rate and move together: the three projections that read a block's input, say, or all
/// experts of a layer, whose kernels want one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateGroup {
    /// Weights of all its linears.
    pub weights: u64,
    /// The block they are in, counted from 0.
    pub layer: usize,
    /// What they are part of.
    pub part: Part,
}

/// Parts of a block, in the order in which spare bits are given to them: few weights that every token meets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Projections around attention.
    Attention,
    /// A network that every token passes.
    Mlp,
    /// Routed experts.
    Experts,
}

/// Spends `average` bits per weight over `groups`.
///
/// Every group starts at the whole part of `average`. What is left is given out one bit at a time, in sweeps over the
/// groups in order of [`Part`], then of nearness to either end of the stack, to each group that it suffices for, until
/// it suffices for none. The result depends on nothing else, never exceeds `average`, and its average never falls
/// when `average` rises.
///
/// # Errors
/// [`AllocationError::Average`] unless `1 ≤ average ≤ 8`.
///
/// ```
/// use treillage_moe::{Part, RateGroup, allocate};
///
/// let attention = RateGroup { weights: 100, layer: 0, part: Part::Attention };
/// let experts = RateGroup { weights: 900, layer: 0, part: Part::Experts };
/// let allocation = allocate(&[attention, experts], 3.15)?;
/// assert_eq!(allocation.bits, [4, 3]);
/// assert_eq!(allocation.average, 3.1);
/// # Ok::<(), treillage_moe::AllocationError>(())
/// ```
pub fn allocate(groups: &[RateGroup], average: f64) -> Result<Allocation, AllocationError> {
    let total: u64 = groups.iter().map(|g| g.weights).sum();
    let budget = budget(average, total)?;
    let base = average.floor() as u8;
    let mut spare = budget.saturating_sub(u64::from(base) * total);

    let last = groups.iter().map(|g| g.layer).max().unwrap_or(0);
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|&i| {
        let RateGroup { layer, part, .. } = groups[i];
        (part, layer.min(last - layer), layer, i)
    });

    let mut bits = vec![base; groups.len()];
    loop {
        let before = spare;
        for &i in &order {
            if bits[i] < 8 && (1..=spare).contains(&groups[i].weights) {
                bits[i] += 1;
                spare -= groups[i].weights;
            }
        }
        if spare == before {
            break;
        }
    }
    Ok(Allocation::new(bits, groups.iter().map(|g| g.weights)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(weights: u64, layer: usize, part: Part) -> RateGroup {
        RateGroup {
            weights,
            layer,
            part,
        }
    }

    #[test]
    fn spare_bits_go_to_attention_then_to_the_ends_of_the_stack() {
        let groups: Vec<RateGroup> = (0..4)
            .flat_map(|layer| {
                [
                    group(10, layer, Part::Attention),
                    group(100, layer, Part::Experts),
                ]
            })
            .collect();
        // 440 weights: 40 for attention, 100 for each layer of experts.
        let rates = |spare: f64| allocate(&groups, 2.0 + spare / 440.0).unwrap().bits;
        assert_eq!(rates(25.5), [3, 2, 2, 2, 2, 2, 3, 2]);
        assert_eq!(rates(40.5), [3, 2, 3, 2, 3, 2, 3, 2]);
        assert_eq!(rates(140.5), [3, 3, 3, 2, 3, 2, 3, 2]);
        assert_eq!(rates(240.5), [3, 3, 3, 2, 3, 2, 3, 3]);
        // What does not suffice for experts is not left lying.
        assert_eq!(rates(260.5), [4, 3, 3, 2, 3, 2, 4, 3]);
    }

    #[test]
    fn whole_averages_are_uniform() {
        let groups = [
            group(7, 0, Part::Mlp),
            group(11, 1, Part::Attention),
            group(5, 1, Part::Experts),
        ];
        for bits in 1..=8 {
            let allocation = allocate(&groups, f64::from(bits)).unwrap();
            assert_eq!(allocation.bits, [bits; 3]);
            assert_eq!(allocation.average, f64::from(bits));
        }
    }

    #[test]
    fn averages_out_of_range_are_refused() {
        for average in [0.99, 8.01, f64::NAN, f64::INFINITY, -3.0] {
            assert!(allocate(&[group(1, 0, Part::Mlp)], average).is_err());
        }
    }

    #[test]
    fn nothing_to_allocate_is_fine() {
        assert_eq!(allocate(&[], 2.5).unwrap().bits, []);
        let empty = [group(0, 0, Part::Mlp)];
        assert_eq!(allocate(&empty, 2.5).unwrap().bits, [2]);
    }

    fn groups() -> impl Strategy<Value = Vec<RateGroup>> {
        let part = prop_oneof![Just(Part::Attention), Just(Part::Mlp), Just(Part::Experts)];
        let one = (1u64..1_000_000, 0usize..12, part)
            .prop_map(|(weights, layer, part)| group(weights, layer, part));
        prop::collection::vec(one, 1..40)
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_is_used_up(groups in groups(), average in 1.0f64..=8.0) {
            let allocation = allocate(&groups, average).unwrap();
            let total: u64 = groups.iter().map(|g| g.weights).sum();
            let budget = (average * total as f64).floor() as u64;
            let spent: u64 = groups.iter().zip(&allocation.bits).map(|(g, &b)| g.weights * u64::from(b)).sum();
            prop_assert!(spent <= budget);
            prop_assert_eq!(allocation.average, spent as f64 / total as f64);
            for (g, &bits) in groups.iter().zip(&allocation.bits) {
                prop_assert!((average.floor() as u8..=8).contains(&bits));
                prop_assert!(bits == 8 || g.weights > budget - spent, "a group could still be raised");
            }
        }

        #[test]
        fn a_larger_budget_never_buys_less(groups in groups(), a in 1.0f64..=8.0, b in 1.0f64..=8.0) {
            let (low, high) = (a.min(b), a.max(b));
            let spent = |average| allocate(&groups, average).unwrap().average;
            prop_assert!(spent(low) <= spent(high));
        }
    }
}
