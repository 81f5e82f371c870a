use std::collections::HashMap;

use treillage_model::plan::{ModelPlan, Role};
use treillage_moe::{Part, RateGroup, allocate};
use treillage_trellis::Bits;

use crate::{Error, HeadBits, TrellisOptions};

/// Bits per weight of every linear that is to be quantized.
pub(crate) struct Rates {
    by_prefix: HashMap<String, Bits>,
    average: f64,
}

impl Rates {
    /// Spends the average that `options` ask for over the linears of the blocks: those with one input move together, and all gates, ups and
    /// downs of a layer's experts, as kernels that run several experts at once want one rate.
    pub(crate) fn new(plan: &ModelPlan, options: &TrellisOptions) -> Result<Self, Error> {
        let mut groups: Vec<RateGroup> = Vec::new();
        let mut members: Vec<(&str, usize)> = Vec::new();
        for block in &plan.blocks {
            let mut group_of_kind: HashMap<Kind, usize> = HashMap::new();
            for linear in &block.linears {
                let kind = Kind::of(linear.role);
                let group = *group_of_kind.entry(kind).or_insert_with(|| {
                    groups.push(RateGroup {
                        weights: 0,
                        layer: block.index,
                        part: kind.part(),
                    });
                    groups.len() - 1
                });
                groups[group].weights += linear.shape.weights() as u64;
                members.push((&linear.prefix, group));
            }
        }
        let allocation = allocate(&groups, options.bits_per_weight)?;
        let mut by_prefix: HashMap<String, Bits> = members
            .into_iter()
            .map(|(prefix, group)| {
                let bits = Bits::new(usize::from(allocation.bits[group]))?;
                Ok((prefix.to_owned(), bits))
            })
            .collect::<Result<_, Error>>()?;
        if let HeadBits::Trellis(bits) = options.head_bits {
            by_prefix.insert(plan.head.prefix.clone(), bits);
        }
        Ok(Self {
            by_prefix,
            average: allocation.average,
        })
    }

    /// The rate of the linear stored under `prefix`, one of those.
    pub(crate) fn of(&self, prefix: &str) -> Bits {
        self.by_prefix[prefix]
    }

    /// The average over the weights of all blocks.
    pub(crate) fn average(&self) -> f64 {
        self.average
    }
}

/// Linears of a block that take one rate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    AttentionInput,
    /// What latent attention makes of its inputs.
    AttentionInner,
    AttentionOutput,
    MlpInput,
    MlpOutput,
    Experts,
}

impl Kind {
    fn of(role: Role) -> Self {
        match role {
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

    fn part(self) -> Part {
        match self {
            Kind::AttentionInput | Kind::AttentionInner | Kind::AttentionOutput => Part::Attention,
            Kind::MlpInput | Kind::MlpOutput => Part::Mlp,
            Kind::Experts => Part::Experts,
        }
    }
}
