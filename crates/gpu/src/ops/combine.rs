//! Adding up what experts made.

use bytemuck::{Pod, Zeroable};
use treillage_backend::Error;

use super::WORKGROUP;
use super::norm::Norm;
use crate::{Context, Tensor};

/// Fours of values that a lane may hold: what compilers keep in registers.
const MAX_FOURS: usize = 16;

/// `residual + Σ_s weights[s] · given[place(s)]`, row by row, and what is shared.
#[derive(Debug)]
pub(crate) struct Sum {
    /// `[rows, width]`.
    pub(super) residual: Tensor,
    /// What experts made, `[rows · per_row, width]`.
    pub(super) given: Tensor,
    /// The weight of each choice, `rows · per_row` values.
    pub(super) weights: Tensor,
    /// The row of `given` that each choice became, u32; `None` if they are in order.
    pub(super) places: Option<Tensor>,
    /// Choices of a row.
    pub(super) per_row: usize,
    pub(super) shared: Option<Shared>,
    /// The flag of the block that ends with it.
    pub(super) flag: u32,
}

/// What an expert of all rows gave, `[rows, width]`, to be multiplied by sigmoids and added.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) given: Tensor,
    /// What the sigmoids are of, `[rows, 1]`; `None` if that is behind the experts' weights.
    pub(super) logits: Option<Tensor>,
}

impl Sum {
    pub(super) fn rows(&self) -> usize {
        self.residual.rows()
    }

    pub(super) fn width(&self) -> usize {
        self.residual.width()
    }

    /// The sum, in `out`.
    pub(super) fn add_up(&self, context: &Context, out: &Tensor) -> Result<(), Error> {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            width: u32,
            top_k: u32,
            gate_at: u32,
        }
        let logits = self.shared.as_ref().and_then(|s| s.logits.as_ref());
        let params = Params {
            width: self.width() as u32,
            top_k: self.per_row as u32,
            gate_at: match logits {
                Some(_) => 0,
                None => (self.rows() * self.per_row) as u32,
            },
        };
        let shared = self.shared.as_ref().map_or(&self.residual, |s| &s.given);
        context.run(
            "combine_experts",
            &[
                ("WG", WORKGROUP.into()),
                ("PLACES", self.places.is_some().into()),
                ("SHARED", self.shared.is_some().into()),
            ],
            &[
                &self.given.slice(),
                &self.weights.slice(),
                &self.residual.slice(),
                &self.places.as_ref().unwrap_or(&self.weights).slice(),
                &shared.slice(),
                &logits.unwrap_or(&self.weights).slice(),
                &out.slice(),
            ],
            &params,
            [params.width.div_ceil(WORKGROUP), self.rows() as u32, 1],
        )?;
        Ok(())
    }

    /// The sum, in `out`, and its norm; `None`, and nothing done, for rows that the kernel for both does not take.
    pub(super) fn add_up_and_norm(
        &self,
        context: &Context,
        out: &Tensor,
        norm: &Norm,
    ) -> Result<Option<Tensor>, Error> {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            fours: u32,
            epsilon: f32,
            flag: u32,
        }
        out.check_width("input of a norm", norm.values().len())?;
        let fours = self.width() / 4;
        let per_lane = fours.div_ceil(WORKGROUP as usize);
        let more = match (&self.places, &self.shared) {
            (Some(places), None) => places,
            (None, None) => &self.weights,
            (None, Some(shared)) if shared.logits.is_none() => &shared.given,
            _ => return Ok(None),
        };
        if !self.width().is_multiple_of(4) || per_lane > MAX_FOURS {
            return Ok(None);
        }
        let normed = context.tensor(out.rows(), out.width())?;
        context.run(
            "combine_norm",
            &[
                ("WG", WORKGROUP.into()),
                ("FOURS_UP", (per_lane as u32).into()),
                ("TOP_K", (self.per_row as u32).into()),
                ("PLACES", self.places.is_some().into()),
                ("SHARED", self.shared.is_some().into()),
                ("REDUCE", context.reduce()),
            ],
            &[
                &self.given.slice(),
                &self.weights.slice(),
                &self.residual.slice(),
                &more.slice(),
                norm.weight(),
                &out.slice(),
                &normed.slice(),
                &context.guard.flags(context.gpu())?,
            ],
            &Params {
                fours: fours as u32,
                epsilon: norm.epsilon(),
                flag: self.flag,
            },
            [self.rows() as u32, 1, 1],
        )?;
        Ok(Some(normed))
    }
}
