//! SwiGLU networks: one for all rows, and routed experts.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{Error, LinearShape, LinearWeights, Routing, SwiGlu};

use treillage_telemetry::Telemetry;

use super::norm::Norm;
use super::{WORKGROUP, rows};
use crate::context::flat_grid;
use crate::linear::{ExpertRows, Linear, project, project_experts};
use crate::{Context, Slice, Tensor};

/// Rows up to which each row finds its experts by itself; more are sorted by expert first, so that an expert's weights are
/// read once for all of its rows.
const MAX_PICKED: usize = 8;
/// What the routing kernel holds in workgroup memory.
const MAX_EXPERTS: u32 = 1024;

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

/// Who is told what happens.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    /// Raised by kernels.
    pub(crate) flags: &'a Slice,
    pub(crate) telemetry: &'a Telemetry,
}

/// `x + swiglu(norm(x))`.
pub(crate) fn mlp(
    context: &Context,
    x: &Tensor,
    norm: &Norm,
    network: &SwiGlu<Linear>,
) -> Result<Tensor, Error> {
    let normed = norm.apply(context, x)?;
    let hidden = project(context, &normed, &[&network.gate, &network.up], None)?;
    let hidden = swiglu(context, &hidden)?;
    first(project(context, &hidden, &[&network.down], Some(x))?)
}

/// `x + Σ_e p_e · expert_e(norm(x))`. The router's choices stay on the device.
pub(crate) fn moe(
    context: &Context,
    x: &Tensor,
    norm: &Norm,
    router: &Linear,
    experts: &Experts,
    routing: &Routing,
    watch: Watch<'_>,
) -> Result<Tensor, Error> {
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
    let Watch { flags, telemetry } = watch;
    let (dispatch, metrics) = (&telemetry.moe_dispatch, &telemetry.moe_metrics);
    dispatch.gpu_router_calls.add(1);
    let normed = norm.apply(context, x)?;
    let logits = first(project(context, &normed, &[router], None)?)?;
    let choices = route(context, &logits, routing, flags)?;
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
        let hidden = swiglu(context, &hidden)?;
        let given = first(project_experts(context, &hidden, picked(1), &[down])?)?;
        let out = combine(context, x, &given, &choices, None)?;
        metrics.fast_path_used.add(1);
        metrics.tokens_processed.add(x.rows() as u64);
        return Ok(out);
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
    let out = combine(context, x, &given, &choices, Some(&groups))?;
    let grouping = &telemetry.grouping;
    grouping.grouping_gpu_primary_success_total.add(1);
    metrics.fast_path_used.add(1);
    metrics.tokens_processed.add(x.rows() as u64);
    Ok(out)
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

/// Experts of each row and their weights, `[rows, top_k]`, on the device.
struct Choices {
    /// u32.
    experts: Tensor,
    weights: Tensor,
}

fn route(
    context: &Context,
    logits: &Tensor,
    routing: &Routing,
    flags: &Slice,
) -> Result<Choices, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        experts: u32,
        top_k: u32,
        normalize: u32,
        flag: u32,
    }
    let choices = Choices {
        experts: context.tensor(logits.rows(), routing.top_k)?,
        weights: context.tensor(logits.rows(), routing.top_k)?,
    };
    let params = Params {
        experts: logits.width() as u32,
        top_k: routing.top_k as u32,
        normalize: routing.normalize.into(),
        flag: 0,
    };
    context.run(
        "route",
        &[
            ("WG", WORKGROUP.into()),
            ("MAX_EXPERTS", MAX_EXPERTS.into()),
            ("REDUCE", context.reduce()),
        ],
        &[
            &logits.slice(),
            &choices.experts.slice(),
            &choices.weights.slice(),
            flags,
        ],
        &params,
        [logits.rows() as u32, 1, 1],
    )?;
    Ok(choices)
}

/// Choices sorted by expert, u32 on the device.
struct Groups {
    /// Where each expert's rows start, and where the last one's end.
    offsets: Tensor,
    /// The choice that each sorted row is.
    sources: Tensor,
    /// The sorted row that each choice became.
    places: Tensor,
}

fn group(context: &Context, choices: &Choices, experts: usize) -> Result<Groups, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        count: u32,
        experts: u32,
    }
    let count = choices.experts.len();
    let groups = Groups {
        offsets: context.tensor(1, experts + 1)?,
        sources: context.tensor(1, count as usize)?,
        places: context.tensor(1, count as usize)?,
    };
    let params = Params {
        count: count as u32,
        experts: experts as u32,
    };
    context.run(
        "group_rows",
        &[("WG", WORKGROUP.into())],
        &[
            &choices.experts.slice(),
            &groups.offsets.slice(),
            &groups.sources.slice(),
            &groups.places.slice(),
        ],
        &params,
        [params.experts, 1, 1],
    )?;
    Ok(groups)
}

/// `residual + Σ weight · given`, row by row.
fn combine(
    context: &Context,
    residual: &Tensor,
    given: &Tensor,
    choices: &Choices,
    groups: Option<&Groups>,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        width: u32,
        top_k: u32,
    }
    let out = context.tensor(residual.rows(), residual.width())?;
    let params = Params {
        width: residual.width() as u32,
        top_k: choices.experts.width() as u32,
    };
    let places = groups.map_or(&choices.experts, |groups| &groups.places);
    context.run(
        "combine_experts",
        &[
            ("WG", WORKGROUP.into()),
            ("PLACES", groups.is_some().into()),
        ],
        &[
            &given.slice(),
            &choices.weights.slice(),
            &residual.slice(),
            &places.slice(),
            &out.slice(),
        ],
        &params,
        [params.width.div_ceil(WORKGROUP), residual.rows() as u32, 1],
    )?;
    Ok(out)
}
