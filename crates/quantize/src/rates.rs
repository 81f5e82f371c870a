use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use treillage_model::plan::{LinearPlan, ModelPlan, Role};
use treillage_moe::{Allocation, LossGroup, Part, RateGroup, allocate, least_loss};
use treillage_trellis::Bits;

use crate::{AllocationRule, Error, HeadBits, TrellisOptions, sensitivity::Sensitivities};

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
        let by_loss: Vec<LossGroup> = groups
            .iter()
            .map(|group| {
                let each = group.linears.iter().map(|l| sensitivities[&l.prefix]);
                let sensitivity: f64 = each.sum();
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
