//! SwiGLU networks: one for all rows, and routed experts.

use treillage_backend::{Error, LinearShape, LinearWeights, Routing, SwiGlu};

use treillage_telemetry::Telemetry;

use super::combine::Sum;
use super::norm::Norm;
use super::routing::{MAX_EXPERTS, group, route};
use super::{Activations, WORKGROUP, rows};
use crate::context::flat_grid;
use crate::linear::{ExpertRows, Linear, project, project_experts};
use crate::{Context, Tensor};

/// Rows up to which each row finds its experts by itself; more are sorted by expert first, so that an expert's weights are
/// read once for all of its rows.
const MAX_PICKED: usize = 8;

/// The routed experts of one layer: matrices of one kind stacked.
pub struct Experts {
    count: usize,
    shape: LinearShape,
    networks: SwiGlu<Linear>,
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
        })
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
    let x = x.ready(context)?;
    let hidden = project(context, &normed, &[&network.gate, &network.up], None)?;
    let hidden = match x.rows() <= MAX_PICKED {
        true => gated(context, &hidden, &network.down)?,
        false => swiglu(context, &hidden)?,
    };
    first(project(context, &hidden, &[&network.down], Some(x))?)
}

/// `x + Σ_e p_e · expert_e(norm(x))`, of which the sum is yet to come. The router's choices stay on the device.
pub(crate) fn moe(
    context: &Context,
    x: &Tensor,
    norm: &Norm,
    router: &Linear,
    experts: &Experts,
    routing: &Routing,
    telemetry: &Telemetry,
) -> Result<Activations, Error> {
    x.check_width("input of experts", experts.shape.in_features)?;
    let (count, top_k) = (experts.count, routing.top_k);
    Error::check_shape("outputs of a router", count, router.shape().out_features)?;
    if !(1..=count).contains(&top_k) {
        let experts = count;
        return Err(treillage_moe::Error::TopK { top_k, experts }.into());
    }
    if count > MAX_EXPERTS as usize {
        return Err(Error::Device(format!(
            "{count} experts: GPU kernels route to at most {MAX_EXPERTS}"
        )));
    }
    let (dispatch, metrics) = (&telemetry.moe_dispatch, &telemetry.moe_metrics);
    dispatch.gpu_router_calls.add(1);
    let (normed, choices) = route(context, x, norm, router, routing)?;
    dispatch.gpu_router_success.add(1);
    dispatch.total_tokens_processed.add(x.rows() as u64);
    dispatch
        .total_experts_activated
        .add((x.rows() * top_k) as u64);

    let SwiGlu { gate, up, down } = &experts.networks;
    let total = x.rows() * top_k;
    if x.rows() <= MAX_PICKED {
        let chosen = choices.experts.slice();
        let picked = |per_row| ExpertRows::Picked {
            experts: &chosen,
            rows: total,
            per_row,
        };
        let hidden = project_experts(context, &normed, picked(top_k), &[gate, up])?;
        let hidden = gated(context, &hidden, down)?;
        let given = first(project_experts(context, &hidden, picked(1), &[down])?)?;
        metrics.fast_path_used.add(1);
        metrics.tokens_processed.add(x.rows() as u64);
        return Activations::later(
            context,
            Sum {
                residual: x.clone(),
                given,
                weights: choices.weights,
                places: None,
                top_k,
                flag: context.guard.flag(),
            },
        );
    }
    telemetry.grouping.grouping_calls_total.add(1);
    let groups = group(context, &choices, count)?;
    let offsets = groups.offsets.slice();
    let sorted = ExpertRows::Grouped {
        offsets: &offsets,
        rows: total,
    };
    let gathered = rows::gather(context, &normed, &groups.sources.slice(), total, top_k)?;
    let hidden = project_experts(context, &gathered, sorted, &[gate, up])?;
    let hidden = swiglu(context, &hidden)?;
    let given = first(project_experts(context, &hidden, sorted, &[down])?)?;
    let grouping = &telemetry.grouping;
    grouping.grouping_gpu_primary_success_total.add(1);
    metrics.fast_path_used.add(1);
    metrics.tokens_processed.add(x.rows() as u64);
    Activations::later(
        context,
        Sum {
            residual: x.clone(),
            given,
            weights: choices.weights,
            places: Some(groups.places),
            top_k,
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
fn gated(context: &Context, gate_up: &[Tensor], down: &Linear) -> Result<Tensor, Error> {
    if let [gate, up] = gate_up
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
