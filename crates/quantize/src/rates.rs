use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use treillage_model::plan::{LinearPlan, ModelPlan, Role};
use treillage_moe::{Allocation, LossGroup, Part, RateGroup, allocate, least_loss};
use treillage_trellis::Bits;

use crate::{AllocationRule, Error, HeadBits, TrellisOptions, sensitivity::Sensitivities};

/// Part of a weight's average cost that every weight has at least.
const NEGLIGIBLE: f64 = 1e-6;

/// Bits per weight of every linear that is to be quantized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rates {
    by_prefix: BTreeMap<String, u8>,
    average: f64,
}

impl Rates {
    /// The rates that `options` settle by themselves; `None` if they hang on what errors cost.
    ///
    /// # Errors
    /// An average that no rates have, whatever they hang on.
    pub(crate) fn fixed(plan: &ModelPlan, options: &TrellisOptions) -> Result<Option<Self>, Error> {
        let average = match options.allocation {
            AllocationRule::Uniform => options.bits_per_weight.floor(),
            _ => options.bits_per_weight,
        };
        let groups = groups(plan, Kind::by_position);
        let by_position: Vec<RateGroup> = groups
            .iter()
            .map(|group| RateGroup {
                weights: group.weights(),
                layer: group.layer,
                part: group.kind.part(),
            })
            .collect();
        let allocation = allocate(&by_position, average)?;
        Ok(match options.allocation {
            AllocationRule::Sensitivity => None,
            _ => Some(Self::new(plan, options, &groups, &allocation)),
        })
    }

    /// The rates at which errors cost least, by what `sensitivities` say.
    pub(crate) fn least_loss(
        plan: &ModelPlan,
        options: &TrellisOptions,
        sensitivities: &Sensitivities,
    ) -> Result<Self, Error> {
        let uniform = options.uniform_experts;
        let groups = groups(plan, |linear| Kind::by_loss(linear, uniform));
        let cost = |group: &Group<'_>| -> f64 {
            let each = group.linears.iter();
            each.map(|linear| sensitivities.get(&linear.prefix).unwrap_or(&0.0))
                .sum()
        };
        // Where errors were not seen to cost anything, bits that nobody else wants are welcome.
        let weights: u64 = groups.iter().map(Group::weights).sum();
        let whole: f64 = groups.iter().map(cost).sum();
        let least = (NEGLIGIBLE * whole / weights.max(1) as f64).max(f64::MIN_POSITIVE.sqrt());
        let by_loss: Vec<LossGroup> = groups
            .iter()
            .map(|group| {
                let sensitivity = cost(group) + least * group.weights() as f64;
                let mut losses = [0.0; 8];
                for (loss, bits) in losses.iter_mut().zip(Bits::all()) {
                    *loss = sensitivity * bits.gaussian_error();
                }
                LossGroup {
                    weights: group.weights(),
                    losses,
                }
            })
            .collect();
        let allocation = least_loss(&by_loss, options.bits_per_weight)?;
        Ok(Self::new(plan, options, &groups, &allocation))
    }

    fn new(
        plan: &ModelPlan,
        options: &TrellisOptions,
        groups: &[Group<'_>],
        allocation: &Allocation,
    ) -> Self {
        let mut by_prefix = BTreeMap::new();
        for (group, &bits) in groups.iter().zip(&allocation.bits) {
            let prefixes = group.linears.iter().map(|l| l.prefix.clone());
            by_prefix.extend(prefixes.map(|prefix| (prefix, bits)));
        }
        if let HeadBits::Trellis(bits) = options.head_bits {
            by_prefix.insert(plan.head.prefix.clone(), bits.get() as u8);
        }
        Self {
            by_prefix,
            average: allocation.average,
        }
    }

    /// The rate of the linear stored under `prefix`, one of those.
    ///
    /// # Errors
    /// If what was read from disk is not of this run.
    pub(crate) fn of(&self, prefix: &str) -> Result<Bits, Error> {
        let bits = self.by_prefix.get(prefix).copied().unwrap_or_default();
        Ok(Bits::new(usize::from(bits))?)
    }

    /// The average over the weights of all blocks.
    pub(crate) fn average(&self) -> f64 {
        self.average
    }
}

/// The squared error to expect at a rate that need not be a whole number, relative to the weights' mean square.
pub(crate) fn error_at(bits: f64) -> f64 {
    let at = |bits: f64| {
        Bits::new(bits as usize)
            .unwrap_or(Bits::MAX)
            .gaussian_error()
    };
    let (below, above) = (at(bits.floor()), at(bits.ceil()));
    below * (above / below).powf(bits.fract())
}

/// Linears of a block that take one rate.
struct Group<'p> {
    layer: usize,
    kind: Kind,
    linears: Vec<&'p LinearPlan>,
}

impl Group<'_> {
    fn weights(&self) -> u64 {
        self.linears.iter().map(|l| l.shape.weights() as u64).sum()
    }
}

/// The linears of each block by their `kind`.
fn groups(plan: &ModelPlan, kind: impl Fn(&LinearPlan) -> Kind) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for block in &plan.blocks {
        let mut group_of_kind: HashMap<Kind, usize> = HashMap::new();
        for linear in &block.linears {
            let kind = kind(linear);
            let group = *group_of_kind.entry(kind).or_insert_with(|| {
                groups.push(Group {
                    layer: block.index,
                    kind,
                    linears: Vec::new(),
                });
                groups.len() - 1
            });
            groups[group].linears.push(linear);
        }
    }
    groups
}

/// What linears of a block that take one rate have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    AttentionInput,
    /// What latent attention makes of its inputs.
    AttentionInner,
    AttentionOutput,
    MlpInput,
    MlpOutput,
    Experts,
    /// One role in all experts.
    ExpertRole(Role),
    /// One linear of one expert.
    Expert(Role, usize),
}

impl Kind {
    /// Linears with one input move together, and all experts of a layer.
    fn by_position(linear: &LinearPlan) -> Self {
        match linear.role {
            Role::Query | Role::Key | Role::Value | Role::GatedValue => Kind::AttentionInput,
            Role::QueryDown | Role::LatentDown => Kind::AttentionInput,
            Role::DeltaInput | Role::DeltaGates => Kind::AttentionInput,
            Role::QueryUp | Role::LatentUp => Kind::AttentionInner,
            Role::AttentionOutput | Role::MixerOutput => Kind::AttentionOutput,
            Role::Gate | Role::Up | Role::SharedGate | Role::SharedUp => Kind::MlpInput,
            Role::Down | Role::SharedDown => Kind::MlpOutput,
            // Not among what is spent on.
            Role::Router | Role::SharedScale | Role::Head => Kind::MlpOutput,
            Role::ExpertGate | Role::ExpertUp | Role::ExpertDown => Kind::Experts,
        }
    }

    /// As by position, as kernels run linears with one input at once; but experts for themselves, or each of their three roles.
    fn by_loss(linear: &LinearPlan, uniform_experts: bool) -> Self {
        match (linear.expert, uniform_experts) {
            (Some(_), true) => Kind::ExpertRole(linear.role),
            (Some(expert), false) => Kind::Expert(linear.role, expert),
            (None, _) => Self::by_position(linear),
        }
    }

    fn part(self) -> Part {
        match self {
            Kind::AttentionInput | Kind::AttentionInner | Kind::AttentionOutput => Part::Attention,
            Kind::MlpInput | Kind::MlpOutput => Part::Mlp,
            Kind::Experts | Kind::ExpertRole(_) | Kind::Expert(..) => Part::Experts,
        }
    }
}

#[cfg(test)]
mod tests {
    use treillage_backend::LinearShape;
    use treillage_model::plan::BlockPlan;

    use super::*;

    /// A block of two dense networks' worth of linears and two experts.
    fn plan() -> ModelPlan {
        let linear = |prefix: &str, role, expert| LinearPlan {
            prefix: prefix.to_owned(),
            shape: LinearShape {
                in_features: 128,
                out_features: 128,
            },
            role,
            expert,
            norm: None,
        };
        ModelPlan {
            blocks: vec![BlockPlan {
                index: 0,
                linears: vec![
                    linear("q", Role::Query, None),
                    linear("k", Role::Key, None),
                    linear("a", Role::ExpertUp, Some(0)),
                    linear("b", Role::ExpertUp, Some(1)),
                ],
                kept_linears: Vec::new(),
                kept: Vec::new(),
            }],
            head: linear("head", Role::Head, None),
            kept: Vec::new(),
            tied: false,
            value_dim: None,
        }
    }

    fn bits(options: &TrellisOptions, sensitivities: &[(&str, f64)]) -> [usize; 4] {
        let each = sensitivities.iter().map(|(p, s)| ((*p).to_owned(), *s));
        let rates = Rates::least_loss(&plan(), options, &each.collect()).unwrap();
        ["q", "k", "a", "b"].map(|prefix| rates.of(prefix).unwrap().get())
    }

    #[test]
    fn linears_move_together_where_they_have_to() {
        let mut options = TrellisOptions {
            bits_per_weight: 3.0,
            ..TrellisOptions::default()
        };
        let sensitivities = [("q", 1.0), ("k", 0.0), ("a", 1.0), ("b", 1e-4)];
        let [q, k, a, b] = bits(&options, &sensitivities);
        assert_eq!(q, k);
        assert!(a > b, "{a} and {b}");
        options.uniform_experts = true;
        let [_, _, a, b] = bits(&options, &sensitivities);
        assert_eq!(a, b);
    }

    #[test]
    fn the_budget_is_spent_even_on_what_costs_nothing() {
        let options = TrellisOptions {
            bits_per_weight: 8.0,
            ..TrellisOptions::default()
        };
        assert_eq!(bits(&options, &[("q", 1.0), ("a", 0.0)]), [8; 4]);
        assert_eq!(bits(&options, &[]), [8; 4]);
    }

    #[test]
    fn errors_lie_between_those_of_whole_rates() {
        let at = |bits| Bits::new(bits).unwrap().gaussian_error();
        assert_eq!(error_at(3.0), at(3));
        assert_eq!(error_at(8.0), at(8));
        assert!((error_at(2.5) - (at(2) * at(3)).sqrt()).abs() < 1e-9);
    }
}
