//! Which rows go to which experts, decided on the device.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{Error, Routing};

use super::norm::Norm;
use super::{WORKGROUP, first};
use crate::linear::{Linear, project};
use crate::{Context, Tensor};

/// Rows up to which the router is one kernel: it reads the router's weights once for each.
const MAX_TOGETHER: usize = 8;
/// What the kernels hold in workgroup memory.
pub(super) const MAX_EXPERTS: u32 = 1024;
/// Experts of a workgroup of the router, and its lanes.
const PER_GROUP: usize = 2;

/// Experts of each row and their weights, on the device.
pub(super) struct Choices {
    pub(super) rows: usize,
    pub(super) top_k: usize,
    /// u32, `rows · top_k` of them.
    pub(super) experts: Tensor,
    /// As many.
    pub(super) weights: Tensor,
}

impl Choices {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows * self.top_k
    }

    /// Room for them, in one piece: experts, and weights from value `weights_at` on.
    fn room(context: &Context, rows: usize, top_k: usize) -> Result<(Self, Tensor, usize), Error> {
        let weights_at = (rows * top_k).next_multiple_of(64);
        let both = context.tensor(2, weights_at)?;
        let [experts, weights] = [0, 1].map(|row| both.window(row, 1));
        let (Some(experts), Some(weights)) = (experts, weights) else {
            let what = "choices that cannot be bound by halves";
            return Err(Error::Device(what.to_owned()));
        };
        let choices = Self {
            rows,
            top_k,
            experts,
            weights,
        };
        Ok((choices, both, weights_at))
    }
}

/// The norm of `x`, and the experts that the router chooses for it.
pub(super) fn route(
    context: &Context,
    x: &Tensor,
    norm: &Norm,
    router: &Linear,
    routing: &Routing,
) -> Result<(Tensor, Choices), Error> {
    if x.rows() <= MAX_TOGETHER
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
            epsilon: f32,
        }
        x.check_width("input of a norm", norm.values().len())?;
        x.check_width("input of a linear", router.shape().in_features)?;
        let experts = router.shape().out_features;
        let normed = context.tensor(x.rows(), x.width())?;
        let logits = context.tensor(x.rows(), experts)?;
        let (choices, both, weights_at) = Choices::room(context, x.rows(), routing.top_k)?;
        let params = Params {
            width: x.width() as u32,
            stride: dense.stride as u32,
            experts: experts as u32,
            top_k: routing.top_k as u32,
            normalize: routing.normalize.into(),
            flag: context.guard.flag(),
            weights_at: weights_at as u32,
            epsilon: norm.epsilon(),
        };
        context.run(
            "router",
            &[
                ("WG", WORKGROUP.into()),
                ("PER_GROUP", (PER_GROUP as u32).into()),
                ("MAX_EXPERTS", MAX_EXPERTS.into()),
                ("FORMAT", dense.format.into()),
                ("REDUCE", context.reduce()),
            ],
            &[
                &x.slice(),
                norm.weight(),
                &dense.rows,
                &normed.slice(),
                &logits.slice(),
                &both.slice(),
                &context.guard.flags(context.gpu())?,
                &context.linears.counters(context.gpu())?,
            ],
            &params,
            [experts.div_ceil(PER_GROUP) as u32, x.rows() as u32, 1],
        )?;
        return Ok((normed, choices));
    }
    let normed = norm.apply(context, x)?;
    let logits = first(project(context, &normed, &[router], None)?)?;
    let choices = choose(context, &logits, routing)?;
    Ok((normed, choices))
}

/// The experts of each row of `logits`.
fn choose(context: &Context, logits: &Tensor, routing: &Routing) -> Result<Choices, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        experts: u32,
        top_k: u32,
        normalize: u32,
        flag: u32,
    }
    let (choices, _, _) = Choices::room(context, logits.rows(), routing.top_k)?;
    let params = Params {
        experts: logits.width() as u32,
        top_k: routing.top_k as u32,
        normalize: routing.normalize.into(),
        flag: context.guard.flag(),
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
