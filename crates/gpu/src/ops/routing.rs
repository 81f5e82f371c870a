//! Which rows go to which experts, decided on the device.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{Error, Routing, Scoring};

use super::norm::Norm;
use super::{WORKGROUP, first};
use crate::context::Constant;
use crate::linear::{Linear, project};
use crate::{Context, Tensor};

/// Rows up to which the router is one kernel: it reads the router's weights once for each.
const MAX_TOGETHER: usize = 8;
/// What the kernels hold in workgroup memory.
const MAX_EXPERTS: u32 = 1024;
/// Experts of a workgroup of the router, and its lanes.
const PER_GROUP: usize = 2;

/// Experts of each row and their weights, on the device.
pub(super) struct Choices {
    pub(super) rows: usize,
    /// Choices of a row.
    pub(super) per_row: usize,
    /// u32, `rows · per_row` of them.
    pub(super) experts: Tensor,
    /// As many, and behind them for each row the logit of a shared expert's gate, if the router's kernel had one.
    pub(super) weights: Tensor,
}

/// Where choices lie, in one piece: experts, and from a multiple of 64 words on weights, and from another on logits.
struct Room {
    choices: Choices,
    all: Tensor,
    weights_at: usize,
    logits_at: usize,
}

impl Choices {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows * self.per_row
    }

    /// Room for them, `more` values behind the weights, and `logits` logits.
    fn room(
        context: &Context,
        rows: usize,
        per_row: usize,
        more: usize,
        logits: usize,
    ) -> Result<Room, Error> {
        let count = rows * per_row;
        let weights_at = count.next_multiple_of(64);
        let logits_at = weights_at + (count + more).next_multiple_of(64);
        let all = context.tensor(1, logits_at + logits)?;
        Ok(Room {
            choices: Self {
                rows,
                per_row,
                experts: all.part(0, 1, count),
                weights: all.part(weights_at, 1, count + more),
            },
            all,
            weights_at,
            logits_at,
        })
    }
}

/// How logits become choices.
pub(crate) struct Rules<'a> {
    pub(crate) routing: &'a Routing,
    /// Added to scores while they are compared.
    pub(crate) correction: Option<&'a Tensor>,
}

impl Rules<'_> {
    /// Checks that they choose from `experts` experts as kernels can.
    pub(super) fn check(&self, experts: usize) -> Result<(), Error> {
        let values = self.correction.map(|values| values.len() as usize);
        self.routing.check(experts, values)?;
        if experts > MAX_EXPERTS as usize {
            return Err(Error::Device(format!(
                "{experts} experts: GPU kernels route to at most {MAX_EXPERTS}"
            )));
        }
        Ok(())
    }

    /// The constants of kernels that choose.
    fn constants(&self) -> [(&'static str, Constant); 5] {
        let groups = self.routing.limit.map_or(1, |limit| limit.groups as u32);
        let sigmoid = self.routing.scoring == Scoring::Sigmoid;
        [
            ("WG", WORKGROUP.into()),
            ("MAX_EXPERTS", MAX_EXPERTS.into()),
            ("SIGMOID", sigmoid.into()),
            ("CORRECTED", self.correction.is_some().into()),
            ("GROUPS", groups.into()),
        ]
    }

    /// Groups of experts that are kept.
    fn kept(&self) -> u32 {
        self.routing.limit.map_or(1, |limit| limit.kept as u32)
    }
}

/// What is known of a shared expert where experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Nothing.
    Apart,
    /// The logits of its gate are behind the experts' weights.
    Behind,
    /// It is the last choice of every row, and its weight the sigmoid of that logit, or one.
    Chosen,
}

/// The norm of `x`, the experts that the router chooses for it, and what it says of a shared expert, of which there is more to say
/// if one kernel does it all: it has a `gate` or none, and may be chosen if it is `stacked` behind the others.
pub(super) fn route(
    context: &Context,
    x: &Tensor,
    norm: &Norm,
    router: &Linear,
    rules: &Rules<'_>,
    gate: Option<&Linear>,
    stacked: bool,
) -> Result<(Tensor, Choices, Gate), Error> {
    if x.rows() <= MAX_TOGETHER
        && !context.guard.is_plain()
        && !router.is_watched()
        && let Some(dense) = router.dense()
    {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            width: u32,
            stride: u32,
            experts: u32,
            top_k: u32,
            normalize: u32,
            flag: u32,
            weights_at: u32,
            logits_at: u32,
            kept: u32,
            scale: f32,
            epsilon: f32,
        }
        x.check_width("input of a norm", norm.values().len())?;
        x.check_width("input of a linear", router.shape().in_features)?;
        let experts = router.shape().out_features;
        let routing = rules.routing;
        // The kernel has room for a gate that is as the router or for a correction.
        let ungated = gate.is_none();
        let gate = gate.and_then(Linear::dense).filter(|gate| {
            let alike = (gate.format, gate.stride) == (dense.format, dense.stride);
            alike && rules.correction.is_none()
        });
        let gated = gate.is_some();
        let place = match (stacked, gated) {
            (true, _) if gated || ungated => Gate::Chosen,
            (_, true) => Gate::Behind,
            _ => Gate::Apart,
        };
        let chosen = place == Gate::Chosen;
        let correction = rules.correction.map(Tensor::slice);
        let extra = gate.map(|gate| &gate.rows).or(correction.as_ref());
        let more = if place == Gate::Behind { x.rows() } else { 0 };
        let normed = context.tensor(x.rows(), x.width())?;
        let logits = x.rows() * experts;
        let per_row = routing.top_k + usize::from(chosen);
        let room = Choices::room(context, x.rows(), per_row, more, logits)?;
        let params = Params {
            width: x.width() as u32,
            stride: dense.stride as u32,
            experts: experts as u32,
            top_k: routing.top_k as u32,
            normalize: routing.normalize.into(),
            flag: context.guard.flag(),
            weights_at: room.weights_at as u32,
            logits_at: room.logits_at as u32,
            kept: rules.kept(),
            scale: routing.scale,
            epsilon: norm.epsilon(),
        };
        let rows = experts + usize::from(gated);
        let [wg, most, sigmoid, corrected, groups] = rules.constants();
        context.run(
            "router",
            &[
                wg,
                most,
                sigmoid,
                corrected,
                groups,
                ("PER_GROUP", (PER_GROUP as u32).into()),
                ("FORMAT", dense.format.into()),
                ("GATED", gated.into()),
                ("SHARED", chosen.into()),
                ("REDUCE", context.reduce()),
            ],
            &[
                &x.slice(),
                norm.weight(),
                &dense.rows,
                extra.unwrap_or(norm.weight()),
                &normed.slice(),
                &room.all.slice(),
                &context.guard.flags(context.gpu())?,
                &context.linears.counters(context.gpu(), x.rows())?,
            ],
            &params,
            [rows.div_ceil(PER_GROUP) as u32, x.rows() as u32, 1],
        )?;
        return Ok((normed, room.choices, place));
    }
    let normed = norm.apply(context, x, context.guard.flag())?;
    let logits = first(project(context, &normed, &[router], None)?)?;
    let choices = choose(context, &logits, rules)?;
    Ok((normed, choices, Gate::Apart))
}

/// The experts of each row of `logits`.
fn choose(context: &Context, logits: &Tensor, rules: &Rules<'_>) -> Result<Choices, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        experts: u32,
        top_k: u32,
        normalize: u32,
        flag: u32,
        kept: u32,
        scale: f32,
    }
    let routing = rules.routing;
    let Room { choices, .. } = Choices::room(context, logits.rows(), routing.top_k, 0, 0)?;
    let params = Params {
        experts: logits.width() as u32,
        top_k: routing.top_k as u32,
        normalize: routing.normalize.into(),
        flag: context.guard.flag(),
        kept: rules.kept(),
        scale: routing.scale,
    };
    let logit_slice = logits.slice();
    let correction = rules.correction.map(Tensor::slice);
    let [wg, most, sigmoid, corrected, groups] = rules.constants();
    context.run(
        "route",
        &[
            wg,
            most,
            sigmoid,
            corrected,
            groups,
            ("REDUCE", context.reduce()),
        ],
        &[
            &logit_slice,
            correction.as_ref().unwrap_or(&logit_slice),
            &choices.experts.slice(),
            &choices.weights.slice(),
            &context.guard.flags(context.gpu())?,
        ],
        &params,
        [logits.rows() as u32, 1, 1],
    )?;
    Ok(choices)
}

/// Choices sorted by expert, u32 on the device.
pub(super) struct Groups {
    /// Where each expert's rows start, and where the last one's end.
    pub(super) offsets: Tensor,
    /// The choice that each sorted row is.
    pub(super) sources: Tensor,
    /// The sorted row that each choice became.
    pub(super) places: Tensor,
}

pub(super) fn group(context: &Context, choices: &Choices, experts: usize) -> Result<Groups, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        count: u32,
        experts: u32,
    }
    let count = choices.len();
    let groups = Groups {
        offsets: context.tensor(1, experts + 1)?,
        sources: context.tensor(1, count)?,
        places: context.tensor(1, count)?,
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
