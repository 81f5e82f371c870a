use treillage_backend::{GroupLimit, LinearShape, Routing, Scoring as Scores, SwiGlu};
use treillage_checkpoint::{Architecture, FeedForward, Moe, Scoring};

use super::{LinearPlan, Names, Role, Tensors};

/// A block's second half.
pub(crate) enum FeedForwardLayout {
    Dense(Box<SwiGlu<LinearPlan>>),
    Moe(Box<MoeLayout>),
}

pub(crate) struct MoeLayout {
    pub(crate) router: LinearPlan,
    /// Added to scores while they are compared.
    pub(crate) correction: Option<String>,
    pub(crate) routing: Routing,
    pub(crate) experts: Vec<SwiGlu<LinearPlan>>,
    /// Hidden to the width of an expert.
    pub(crate) shape: LinearShape,
    pub(crate) shared: Option<SharedLayout>,
}

pub(crate) struct SharedLayout {
    pub(crate) network: SwiGlu<LinearPlan>,
    pub(crate) scale: Option<LinearPlan>,
}

/// The roles of a network's projections.
const DENSE: SwiGlu<Role> = SwiGlu {
    gate: Role::Gate,
    up: Role::Up,
    down: Role::Down,
};
const EXPERT: SwiGlu<Role> = SwiGlu {
    gate: Role::ExpertGate,
    up: Role::ExpertUp,
    down: Role::ExpertDown,
};
const SHARED: SwiGlu<Role> = SwiGlu {
    gate: Role::SharedGate,
    up: Role::SharedUp,
    down: Role::SharedDown,
};

impl FeedForwardLayout {
    pub(super) fn new(names: &Names<'_>, network: FeedForward<'_>) -> Self {
        match network {
            FeedForward::Dense { intermediate_size } => {
                Self::Dense(Box::new(swiglu(names, "mlp", DENSE, intermediate_size)))
            }
            FeedForward::Moe(moe) => Self::Moe(Box::new(MoeLayout::new(names, moe))),
        }
    }

    /// Lists its tensors in the order that a block computes in.
    pub(super) fn list(self, tensors: &mut Tensors) {
        let add = |tensors: &mut Tensors, SwiGlu { gate, up, down }| {
            tensors.linears.extend([gate, up, down]);
        };
        match self {
            Self::Dense(mlp) => add(tensors, *mlp),
            Self::Moe(moe) => {
                tensors.keep_linear(moe.router);
                tensors.keep(moe.correction);
                if let Some(SharedLayout { network, scale }) = moe.shared {
                    add(tensors, network);
                    scale.into_iter().for_each(|s| tensors.keep_linear(s));
                }
                for expert in moe.experts {
                    add(tensors, expert);
                }
            }
        }
    }
}

impl MoeLayout {
    fn new(names: &Names<'_>, moe: &Moe) -> Self {
        let hidden = names.hidden();
        let expert = |e: usize| {
            let name = format!("mlp.experts.{e}");
            let network = swiglu(names, &name, EXPERT, moe.intermediate_size);
            let numbered = |plan| LinearPlan {
                expert: Some(e),
                ..plan
            };
            SwiGlu {
                gate: numbered(network.gate),
                up: numbered(network.up),
                down: numbered(network.down),
            }
        };
        let corrected = moe.scoring == Scoring::CorrectedSigmoid;
        let shared = moe.shared.map(|shared| {
            let name = match names.config.architecture {
                Architecture::Glm4MoeLite => "mlp.shared_experts",
                _ => "mlp.shared_expert",
            };
            let scale = || names.linear("mlp.shared_expert_gate", Role::SharedScale, hidden, 1);
            SharedLayout {
                network: swiglu(names, name, SHARED, shared.intermediate_size),
                scale: shared.gated.then(scale),
            }
        });
        Self {
            router: names.linear("mlp.gate", Role::Router, hidden, moe.num_experts),
            correction: corrected.then(|| names.tensor("mlp.gate.e_score_correction_bias")),
            routing: Routing {
                scoring: match moe.scoring {
                    Scoring::Softmax => Scores::Softmax,
                    Scoring::CorrectedSigmoid => Scores::Sigmoid,
                },
                scale: moe.routed_scaling_factor,
                limit: moe.groups.map(|(groups, kept)| GroupLimit { groups, kept }),
                ..Routing::softmax(moe.experts_per_token, moe.norm_topk_prob)
            },
            experts: (0..moe.num_experts).map(expert).collect(),
            shape: LinearShape {
                in_features: hidden,
                out_features: moe.intermediate_size,
            },
            shared,
        }
    }
}

fn swiglu(names: &Names<'_>, name: &str, roles: SwiGlu<Role>, inner: usize) -> SwiGlu<LinearPlan> {
    let hidden = names.hidden();
    let linear = |projection: &str, role, input, output| {
        names.linear(&format!("{name}.{projection}"), role, input, output)
    };
    SwiGlu {
        gate: linear("gate_proj", roles.gate, hidden, inner),
        up: linear("up_proj", roles.up, hidden, inner),
        down: linear("down_proj", roles.down, inner, hidden),
    }
}
