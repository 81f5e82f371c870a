//! SwiGLU networks: one for all rows, and routed experts.

use std::ops::Range;

use treillage_backend::{Error, LinearShape, LinearWeights, RouteWeighting, SharedExpert, SwiGlu};

use treillage_telemetry::Telemetry;

use super::combine::{Shared, Sum};
use super::norm::Norm;
use super::routing::{Gate, Rules, group, route};
use super::{Activations, WORKGROUP, rows};
use crate::context::flat_grid;
use crate::linear::{ExpertRows, Linear, project, project_experts};
use crate::moments::{ExpertMoments, Moments, Routed, Stack};
use crate::{Context, Tensor};

/// Rows up to which each row finds its experts by itself; more are sorted by expert first, so that an expert's weights are
/// read once for all of its rows.
const MAX_PICKED: usize = 8;

/// The routed experts of one layer: matrices of one kind stacked.
pub struct Experts {
    count: usize,
    shape: LinearShape,
    networks: SwiGlu<Linear>,
    /// The same, and behind them the expert that sees every token.
    with_shared: Option<SwiGlu<Linear>>,
    /// Where they add what they read.
    watch: Option<ExpertMoments>,
}

impl Experts {
    pub(crate) fn new(
        context: &Context,
        experts: Vec<SwiGlu<LinearWeights>>,
        shape: LinearShape,
    ) -> Result<Self, Error> {
        let count = experts.len();
        let (mut gates, mut ups, mut downs) = (Vec::new(), Vec::new(), Vec::new());
        for SwiGlu { gate, up, down } in experts {
            gates.push(gate);
            ups.push(up);
            downs.push(down);
        }
        let back = LinearShape {
            in_features: shape.out_features,
            out_features: shape.in_features,
        };
        let stacks = [(&gates[..], shape), (&ups[..], shape), (&downs[..], back)];
        let [gate, up, down] = Linear::stack_together(context, stacks)?;
        Ok(Self {
            count,
            shape,
            networks: SwiGlu { gate, up, down },
            with_shared: None,
            watch: None,
        })
    }

    /// And `shared`, of the second of `shapes`; if it is that of the others, in the same stacks: few rows then meet it as one choice
    /// more.
    pub(crate) fn with_shared(
        context: &Context,
        mut experts: Vec<SwiGlu<LinearWeights>>,
        shared: SwiGlu<LinearWeights>,
        shapes: (LinearShape, LinearShape),
    ) -> Result<(Self, SwiGlu<Linear>), Error> {
        let (shape, shared_shape) = shapes;
        if shape != shared_shape {
            let one = Self::new(context, vec![shared], shared_shape)?;
            return Ok((Self::new(context, experts, shape)?, one.networks));
        }
        let count = experts.len();
        experts.push(shared);
        let all = Self::new(context, experts, shape)?.networks;
        let parts = |range: Range<usize>| SwiGlu {
            gate: all.gate.part(range.clone()),
            up: all.up.part(range.clone()),
            down: all.down.part(range),
        };
        let (networks, shared) = (parts(0..count), parts(count..count + 1));
        let experts = Self {
            count,
            shape,
            networks,
            with_shared: Some(all),
            watch: None,
        };
        Ok((experts, shared))
    }

    /// From now on each adds what it reads, `inputs` for gate and up, `downs` for down.
    pub(crate) fn watch(
        &mut self,
        context: &Context,
        inputs: &[Option<Moments>],
        downs: &[Option<Moments>],
        weighting: RouteWeighting,
    ) -> Result<(), Error> {
        let LinearShape {
            in_features,
            out_features,
        } = self.shape;
        for (moments, width) in [(inputs, in_features), (downs, out_features)] {
            Error::check_shape("moments of experts", self.count, moments.len())?;
            for moments in moments.iter().flatten() {
                Error::check_shape("width of moments", width, moments.width())?;
            }
        }
        self.watch = Some(ExpertMoments {
            inputs: Stack::of(context, inputs)?,
            downs: Stack::of(context, downs)?,
            weighting,
        });
        Ok(())
    }

    /// Whether each of `rows` rows finds its experts by itself. Where they are watched, rows lie by expert.
    fn picks(&self, rows: usize) -> bool {
        rows <= MAX_PICKED && self.watch.is_none()
    }

    /// The stacks that `shared` is the last of, if there are such. One that is watched is apart.
    fn stacked_with(&self, shared: &SwiGlu<Linear>) -> Option<&SwiGlu<Linear>> {
        let all = self.with_shared.as_ref()?;
        if [&shared.gate, &shared.up, &shared.down]
            .into_iter()
            .any(Linear::is_watched)
        {
            return None;
        }
        let pairs = [
            (&shared.gate, &all.gate),
            (&shared.up, &all.up),
            (&shared.down, &all.down),
        ];
        let same = pairs.iter().all(|(one, stack)| one.is_last_of(stack));
        same.then_some(all)
    }
}

/// `x + swiglu(norm(x))`.
pub(crate) fn mlp(
    context: &Context,
    x: &Activations,
    norm: &Norm,
    network: &SwiGlu<Linear>,
) -> Result<Tensor, Error> {
    let normed = x.normed(context, norm)?;
    feed(context, &normed, network, Some(x.ready(context)?))
}

/// `swiglu(x)`, plus `residual` if there is one.
fn feed(
    context: &Context,
    x: &Tensor,
    network: &SwiGlu<Linear>,
    residual: Option<&Tensor>,
) -> Result<Tensor, Error> {
    let hidden = project(context, x, &[&network.gate, &network.up], None)?;
    let hidden = match x.rows() <= MAX_PICKED {
        true => gated_input(context, &hidden, &network.down)?,
        false => swiglu(context, &hidden)?,
    };
    first(project(context, &hidden, &[&network.down], residual)?)
}

/// What a routed layer is made of.
pub(crate) struct Moe<'a> {
    pub(crate) norm: &'a Norm,
    pub(crate) router: &'a Linear,
    pub(crate) experts: &'a Experts,
    pub(crate) shared: Option<SharedExpert<'a, Linear>>,
    pub(crate) rules: Rules<'a>,
}

/// `x + Σ_e p_e · expert_e(norm(x)) + g · shared(norm(x))`, of which the sum is yet to come. The router's choices stay on the
/// device.
pub(crate) fn moe(
    context: &Context,
    x: &Tensor,
    layer: &Moe<'_>,
    telemetry: &Telemetry,
) -> Result<Activations, Error> {
    let Moe {
        norm,
        router,
        experts,
        shared,
        rules,
    } = layer;
    x.check_width("input of experts", experts.shape.in_features)?;
    let (count, top_k) = (experts.count, rules.routing.top_k);
    Error::check_shape("outputs of a router", count, router.shape().out_features)?;
    rules.check(count)?;
    let gate = shared.and_then(|shared| shared.gate);
    if let Some(gate) = gate {
        Error::check_shape("outputs of a gate", 1, gate.shape().out_features)?;
        x.check_width("input of a gate", gate.shape().in_features)?;
    }
    let (dispatch, metrics) = (&telemetry.moe_dispatch, &telemetry.moe_metrics);
    dispatch.gpu_router_calls.add(1);
    let stacked = match shared {
        Some(shared) if experts.picks(x.rows()) => experts.stacked_with(shared.network),
        _ => None,
    };
    let (normed, choices, place) = route(context, x, norm, router, rules, gate, stacked.is_some())?;
    dispatch.gpu_router_success.add(1);
    dispatch.total_tokens_processed.add(x.rows() as u64);
    dispatch
        .total_experts_activated
        .add((x.rows() * top_k) as u64);

    // A shared expert that is no choice is part of the residual; if it has a gate it is added with the others.
    let (mut residual, mut added) = (x.clone(), None);
    match (shared.filter(|_| place != Gate::Chosen), gate) {
        (None, _) => {}
        (Some(shared), None) => {
            residual = feed(context, &normed, shared.network, Some(x))?;
        }
        (Some(shared), Some(gate)) => {
            added = Some(Shared {
                given: feed(context, &normed, shared.network, None)?,
                logits: match place {
                    Gate::Behind => None,
                    _ => Some(first(project(context, &normed, &[gate], None)?)?),
                },
            });
        }
    }
    let SwiGlu { gate, up, down } = stacked
        .filter(|_| place == Gate::Chosen)
        .unwrap_or(&experts.networks);
    let per_row = choices.per_row;
    let total = x.rows() * per_row;
    let (given, places) = if experts.picks(x.rows()) {
        let chosen = choices.experts.slice();
        let picked = |per_row| ExpertRows::Picked {
            experts: &chosen,
            rows: total,
            per_row,
        };
        let hidden = project_experts(context, &normed, picked(per_row), &[gate, up])?;
        let hidden = gated_input(context, &hidden, down)?;
        let given = project_experts(context, &hidden, picked(1), &[down])?;
        (given, None)
    } else {
        telemetry.grouping.grouping_calls_total.add(1);
        let groups = group(context, &choices, count)?;
        let offsets = groups.offsets.slice();
        let sorted = ExpertRows::Grouped {
            offsets: &offsets,
            rows: total,
        };
        let sources = groups.sources.slice();
        let gathered = rows::gather(context, &normed, &sources, total, per_row)?;
        let weights = choices.weights.slice();
        let watched = experts.watch.as_ref().map(|watch| {
            let routed = Routed {
                offsets: &offsets,
                sources: &sources,
                weights: &weights,
                weighting: watch.weighting,
            };
            (watch, routed)
        });
        if let Some((watch, routed)) = &watched {
            watch.inputs.observe(context, &gathered, Some(routed))?;
        }
        let hidden = project_experts(context, &gathered, sorted, &[gate, up])?;
        let hidden = swiglu(context, &hidden)?;
        if let Some((watch, routed)) = &watched {
            watch.downs.observe(context, &hidden, Some(routed))?;
        }
        let given = project_experts(context, &hidden, sorted, &[down])?;
        let grouping = &telemetry.grouping;
        grouping.grouping_gpu_primary_success_total.add(1);
        (given, Some(groups.places))
    };
    // Few rows take the plain path expert by expert.
    match context.guard.is_plain() && experts.picks(x.rows()) {
        true => metrics.fallback_used.add(1),
        false => metrics.fast_path_used.add(1),
    }
    metrics.tokens_processed.add(x.rows() as u64);
    Activations::later(
        context,
        Sum {
            residual,
            given: first(given)?,
            weights: choices.weights,
            places,
            per_row,
            shared: added,
            flag: context.guard.flag(),
        },
    )
}

/// The one tensor that one linear gives.
pub(crate) fn first(tensors: Vec<Tensor>) -> Result<Tensor, Error> {
    let count = tensors.len();
    let one = tensors.into_iter().next();
    one.ok_or_else(|| Error::Shape {
        what: "outputs of one linear".to_owned(),
        expected: 1,
        found: count,
    })
}

/// `silu(gate) ∘ up` of few rows, for `down` to compute by itself if it can: all of its workgroups do, which of many rows costs
/// more than a dispatch.
fn gated_input(context: &Context, gate_up: &[Tensor], down: &Linear) -> Result<Tensor, Error> {
    if let [gate, up] = gate_up
        && !context.guard.is_plain()
        && down.takes_gated()
        && let Some(pair) = Tensor::gated(gate, up)
    {
        return Ok(pair);
    }
    swiglu(context, gate_up)
}

/// `silu(gate) ∘ up`.
fn swiglu(context: &Context, gate_up: &[Tensor]) -> Result<Tensor, Error> {
    let [gate, up] = gate_up else {
        return Err(Error::Shape {
            what: "outputs of gate and up".to_owned(),
            expected: 2,
            found: gate_up.len(),
        });
    };
    let out = context.tensor(gate.rows(), gate.width())?;
    context.run(
        "swiglu",
        &[("WG", WORKGROUP.into())],
        &[&gate.slice(), &up.slice(), &out.slice()],
        &(out.len() as u32),
        flat_grid(out.len().div_ceil(WORKGROUP.into())),
    )?;
    Ok(out)
}
