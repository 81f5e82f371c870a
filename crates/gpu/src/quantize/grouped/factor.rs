//! What the sweep needs of a Hessian: its order, and the factor `V` of `H + λI = V Vᵀ`.

use bytemuck::{Pod, Zeroable};
use treillage_gptq::{Config, Rotation};

use super::TILE;
use crate::quantize::matrices::rotated_both;
use crate::{Context, Error, Tensor, Work};

/// Columns that are factorized together.
const PANEL: usize = 32;

/// The factor of a damped Hessian in the order of the sweep, on the device: what linears that share an input share.
///
/// It is the factor of `treillage_linalg::gptq_factor`, made in f32 and with the first damping only. Whether that was enough, and every
/// input's moment positive, is known on the device and read with the codes.
#[derive(Clone, Debug)]
pub struct Factor {
    /// `[n, n]`, rotated, by input.
    pub(super) hessian: Tensor,
    /// u32 `[n]`: input `order[i]` is step `i` of the sweep.
    pub(super) order: Tensor,
    /// `[n, n]`, lower: `V` turned round.
    pub(super) lower: Tensor,
    /// `[n]`, by input: squares of the factor's diagonal.
    pub(super) importance: Tensor,
    /// The damping, and whether the Hessian is beyond this.
    pub(super) state: Tensor,
    pub(super) rotation: Rotation,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Columns {
    n: u32,
    first: u32,
}

impl Factor {
    /// Records the factorization of `hessian`, `[n, n]` with both triangles, as `config` says: rotated, ordered, damped.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub fn new(context: &Context, hessian: &Tensor, config: &Config) -> Result<Self, Error> {
        let n = hessian.width();
        let hessian = match config.rotation {
            Rotation::None => hessian.clone(),
            rotation => rotated_both(context, hessian, rotation)?,
        };
        let state = context.tensor(1, 2)?;
        context.recorder.clear(&state.slice());
        let order = ordered(context, &hessian, &state, config)?;
        let matrix = context.tensor(n, n)?;
        let slices = [
            &hessian.slice(),
            &order.slice(),
            &state.slice(),
            &matrix.slice(),
        ];
        let grid = [n.div_ceil(256) as u32, n as u32, 1];
        context.run("quantize/gather", &[], &slices, &(n as u32), grid)?;

        let factor = Self {
            hessian,
            order,
            lower: context.tensor(n, n)?,
            importance: context.tensor(1, n)?,
            state,
            rotation: config.rotation,
        };
        for first in (0..n).step_by(PANEL) {
            factor.panel(context, &matrix, first)?;
        }
        Ok(factor)
    }

    /// Columns from `first` on, and what they leave of the matrix.
    fn panel(&self, context: &Context, matrix: &Tensor, first: usize) -> Result<(), Error> {
        let n = matrix.width();
        let params = Columns {
            n: n as u32,
            first: first as u32,
        };
        let below = n.saturating_sub(first + PANEL);
        let slices = [
            &matrix.slice(),
            &self.lower.slice(),
            &self.importance.slice(),
            &self.order.slice(),
            &self.state.slice(),
        ];
        let work = Work {
            bytes: 8 * (PANEL * (n - first)) as u64,
            operations: (PANEL * PANEL * (n - first)) as u64,
        };
        let grid = [below.div_ceil(TILE).max(1) as u32, 1, 1];
        context.run_for(work, "quantize/panel", &[], &slices, &params, grid)?;
        let tiles = below.div_ceil(TILE) as u32;
        let slices = [&self.lower.slice(), &matrix.slice()];
        let work = Work {
            bytes: 4 * (below * (below + PANEL)) as u64,
            operations: (PANEL * below * below) as u64,
        };
        let grid = [tiles, tiles, 1];
        context.run_for(work, "quantize/update", &[], &slices, &params, grid)
    }
}

fn ordered(
    context: &Context,
    hessian: &Tensor,
    state: &Tensor,
    config: &Config,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        n: u32,
        sorted: u32,
        fraction: f32,
    }
    let n = hessian.width();
    let order = context.tensor(1, n)?;
    let params = Params {
        n: n as u32,
        sorted: config.act_order.into(),
        fraction: config.damping.fraction,
    };
    let slices = [&hessian.slice(), &order.slice(), &state.slice()];
    let grid = [n.div_ceil(64) as u32, 1, 1];
    let work = Work {
        bytes: 8 * n as u64,
        operations: (n * n) as u64,
    };
    context.run_for(work, "quantize/order", &[], &slices, &params, grid)?;
    Ok(order)
}
