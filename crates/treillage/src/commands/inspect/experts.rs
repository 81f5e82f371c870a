//! At which rates experts run.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;
use treillage_model::plan::{LinearPlan, Role};

/// Experts of all layers by the bits of their gate, up and down.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(super) struct ExpertRates(Vec<Tuple>);

/// Experts of one tuple.
#[derive(Serialize)]
struct Tuple {
    gate: usize,
    up: usize,
    down: usize,
    experts: usize,
}

/// Counts experts linear by linear.
#[derive(Default)]
pub(super) struct Counting(BTreeMap<(usize, usize), [usize; 3]>);

impl Counting {
    /// Takes note of a linear of layer `layer` that has so many bits.
    pub(super) fn add(&mut self, layer: usize, linear: &LinearPlan, bits: usize) {
        let place = match linear.role {
            Role::ExpertGate => 0,
            Role::ExpertUp => 1,
            Role::ExpertDown => 2,
            _ => return,
        };
        if let Some(expert) = linear.expert {
            self.0.entry((layer, expert)).or_default()[place] = bits;
        }
    }

    pub(super) fn finish(self) -> ExpertRates {
        let mut counts: BTreeMap<[usize; 3], usize> = BTreeMap::new();
        for tuple in self.0.into_values() {
            *counts.entry(tuple).or_default() += 1;
        }
        let tuples = counts.into_iter().map(|([gate, up, down], experts)| Tuple {
            gate,
            up,
            down,
            experts,
        });
        ExpertRates(tuples.collect())
    }
}

impl ExpertRates {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for ExpertRates {
    /// `2/2/3×14 3/3/3×2`, ascending.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, tuple) in self.0.iter().enumerate() {
            let Tuple {
                gate,
                up,
                down,
                experts,
            } = tuple;
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{gate}/{up}/{down}×{experts}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use treillage_backend::LinearShape;

    use super::*;

    #[test]
    fn experts_are_counted_by_their_three_rates() {
        let mut counting = Counting::default();
        let mut expert = |layer, expert, bits: [usize; 3]| {
            let roles = [Role::ExpertGate, Role::ExpertUp, Role::ExpertDown];
            for (role, bits) in roles.into_iter().zip(bits) {
                let linear = LinearPlan {
                    prefix: String::new(),
                    shape: LinearShape {
                        in_features: 1,
                        out_features: 1,
                    },
                    role,
                    expert: Some(expert),
                    norm: None,
                };
                counting.add(layer, &linear, bits);
            }
        };
        expert(0, 0, [3, 3, 3]);
        expert(0, 1, [2, 2, 3]);
        expert(1, 0, [3, 3, 3]);
        assert_eq!(counting.finish().to_string(), "2/2/3×1 3/3/3×2");
    }
}
