//! Rates of least loss.

use super::{Allocation, AllocationError, RATES, budget};

/// Linears that take one rate and move together, and what each rate costs in quality.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossGroup {
    /// Weights of all its linears.
    pub weights: u64,
    /// The loss at 1, 2, … 8 bits per weight, in any unit that all groups share. Losses of groups add up.
    pub losses: [f64; 8],
}

/// From one rate of a group to a higher one that saves most for its bits.
#[derive(Clone, Copy)]
struct Step {
    /// Loss saved per bit spent; falls from step to step of a group.
    slope: f64,
    group: u32,
    from: u8,
    to: u8,
}

/// Spends `average` bits per weight over `groups` so that the sum of their losses is small.
///
/// This is the Lagrangian of the problem, solved exactly: a multiplier λ says what a bit must save, and each group
/// climbs the convex hull of its losses as long as a step saves more. Instead of searching for the λ that meets the
/// budget, all steps of all hulls are taken in order of what they save, which visits every λ once. Where a step is too
/// large for what is left, its group stays where it is and smaller ones go on.
///
/// The loss is above the best possible one by less than what the first step that was too large would have saved; never
/// grows with `average`; and depends on the order of `groups` only where two save the same. Every group has one bit at
/// least. `O(n log n)`: 73,728 groups take some tens of milliseconds.
///
/// # Errors
/// [`AllocationError::Average`] unless `1 ≤ average ≤ 8`, [`AllocationError::Loss`] for a loss that is not finite.
///
/// ```
/// use treillage_moe::{LossGroup, least_loss};
///
/// // Each bit takes three quarters of the error away; the second group's counts ten times as much.
/// let group = |scale: f64| LossGroup {
///     weights: 100,
///     losses: std::array::from_fn(|rate| scale * 0.25f64.powi(rate as i32)),
/// };
/// let allocation = least_loss(&[group(1.0), group(10.0)], 3.0)?;
/// assert_eq!(allocation.bits, [2, 4]);
/// assert_eq!(allocation.average, 3.0);
/// # Ok::<(), treillage_moe::AllocationError>(())
/// ```
pub fn least_loss(groups: &[LossGroup], average: f64) -> Result<Allocation, AllocationError> {
    let total: u64 = groups.iter().map(|g| g.weights).sum();
    let mut spare = budget(average, total)?.saturating_sub(total);
    let mut steps = Vec::with_capacity(7 * groups.len());
    for (index, group) in groups.iter().enumerate() {
        if let Some(rate) = group.losses.iter().position(|loss| !loss.is_finite()) {
            return Err(AllocationError::Loss {
                group: index,
                bits: rate as u8 + 1,
                loss: group.losses[rate],
            });
        }
        climb(index as u32, group, &mut steps);
    }
    // Steps of a group are in order already, and stay so where slopes are equal: the sort is stable.
    steps.sort_by(|a, b| b.slope.total_cmp(&a.slope));

    let mut bits = vec![*RATES.start(); groups.len()];
    for Step {
        group, from, to, ..
    } in steps
    {
        let index = group as usize;
        let cost = groups[index].weights * u64::from(to - from);
        // A group whose last step was too large is left below, and what is left only shrinks.
        if bits[index] == from && cost <= spare {
            bits[index] = to;
            spare -= cost;
        }
    }
    Ok(Allocation::new(bits, groups.iter().map(|g| g.weights)))
}

/// Adds the steps of the lower convex hull of a group's losses, as far as it falls.
fn climb(index: u32, group: &LossGroup, steps: &mut Vec<Step>) {
    let losses = &group.losses;
    let mut at = 0;
    // Empty groups cost nothing and save nothing: any rate is as good.
    while at + 1 < losses.len() && group.weights > 0 {
        let slope = |to: usize| (losses[at] - losses[to]) / (to - at) as f64;
        let mut best = at + 1;
        for to in at + 2..losses.len() {
            if slope(to) > slope(best) {
                best = to;
            }
        }
        let slope = slope(best);
        if slope <= 0.0 {
            break;
        }
        steps.push(Step {
            slope: slope / group.weights as f64,
            group: index,
            from: at as u8 + 1,
            to: best as u8 + 1,
        });
        at = best;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sum of the losses at `bits`.
    fn loss(groups: &[LossGroup], bits: &[u8]) -> f64 {
        let each = groups.iter().zip(bits);
        each.map(|(g, &b)| g.losses[usize::from(b) - 1]).sum()
    }

    fn spent(groups: &[LossGroup], bits: &[u8]) -> u64 {
        let each = groups.iter().zip(bits);
        each.map(|(g, &b)| g.weights * u64::from(b)).sum()
    }

    /// The least loss that `budget` allows, by trying everything.
    fn exhaustive(groups: &[LossGroup], budget: u64) -> f64 {
        let Some((first, rest)) = groups.split_first() else {
            return 0.0;
        };
        let minimum: u64 = rest.iter().map(|g| g.weights).sum();
        (1..=8u64)
            .filter(|bits| bits * first.weights + minimum <= budget)
            .map(|bits| {
                first.losses[bits as usize - 1] + exhaustive(rest, budget - bits * first.weights)
            })
            .fold(f64::INFINITY, f64::min)
    }

    /// Any losses, convex or not, falling or not.
    fn groups(most: usize) -> impl Strategy<Value = Vec<LossGroup>> {
        let one = (1u64..20, prop::array::uniform8(0.0f64..1.0))
            .prop_map(|(weights, losses)| LossGroup { weights, losses });
        prop::collection::vec(one, 1..most)
    }

    /// The most that a single step of a hull saves.
    fn largest_step(groups: &[LossGroup]) -> f64 {
        let mut steps = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            climb(index as u32, group, &mut steps);
        }
        let saved = steps.iter().map(|step| {
            let losses = &groups[step.group as usize].losses;
            losses[usize::from(step.from) - 1] - losses[usize::from(step.to) - 1]
        });
        saved.fold(0.0, f64::max)
    }

    #[test]
    fn where_all_steps_fit_the_result_is_the_best() {
        // Equal weights and convex losses: greedy is exact at every budget.
        let groups: Vec<LossGroup> = [5.0, 1.0, 0.3, 40.0]
            .map(|scale| LossGroup {
                weights: 7,
                losses: std::array::from_fn(|rate| scale * 0.27f64.powi(rate as i32)),
            })
            .into();
        for quarter in 4..=32 {
            let average = f64::from(quarter) / 4.0;
            let found = least_loss(&groups, average).unwrap();
            let best = exhaustive(&groups, (average * 28.0) as u64);
            assert!((loss(&groups, &found.bits) - best).abs() < 1e-12);
        }
    }

    #[test]
    fn what_is_not_on_the_hull_is_skipped() {
        // Two bits save next to nothing, three nearly everything.
        let losses = [1.0, 0.99, 0.1, 0.09, 0.08, 0.07, 0.06, 0.05];
        let group = LossGroup { weights: 1, losses };
        let bits = |average| least_loss(&[group; 2], average).unwrap().bits;
        assert_eq!(bits(2.0), [3, 1]);
        assert_eq!(bits(3.0), [3, 3]);
    }

    #[test]
    fn nonsense_is_refused() {
        let group = LossGroup {
            weights: 1,
            losses: [0.0; 8],
        };
        for average in [0.99, 8.01, f64::NAN, f64::INFINITY, -3.0] {
            assert!(least_loss(&[group], average).is_err());
        }
        let mut broken = group;
        broken.losses[2] = f64::NAN;
        let error = least_loss(&[group, broken], 2.0).unwrap_err();
        assert!(matches!(
            error,
            AllocationError::Loss {
                group: 1,
                bits: 3,
                ..
            }
        ));
    }

    #[test]
    fn nothing_to_allocate_is_fine() {
        assert_eq!(least_loss(&[], 2.5).unwrap().bits, []);
        let empty = LossGroup {
            weights: 0,
            losses: [1.0, 0.5, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0],
        };
        assert_eq!(least_loss(&[empty], 2.5).unwrap().bits, [1]);
    }

    proptest! {
        #[test]
        fn the_loss_is_within_one_step_of_the_best(groups in groups(5), average in 1.0f64..=8.0) {
            let found = least_loss(&groups, average).unwrap();
            let total: u64 = groups.iter().map(|g| g.weights).sum();
            let budget = (average * total as f64).floor() as u64;
            prop_assert!(spent(&groups, &found.bits) <= budget);
            let (found, best) = (loss(&groups, &found.bits), exhaustive(&groups, budget));
            prop_assert!(best <= found + 1e-12);
            prop_assert!(found <= best + largest_step(&groups) + 1e-12, "{found} for {best}");
        }

        #[test]
        fn a_larger_budget_never_costs_quality(groups in groups(40), a in 1.0f64..=8.0, b in 1.0f64..=8.0) {
            let found = |average| loss(&groups, &least_loss(&groups, average).unwrap().bits);
            prop_assert!(found(a.max(b)) <= found(a.min(b)) + 1e-12);
        }
    }
}
