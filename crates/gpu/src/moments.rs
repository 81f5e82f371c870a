//! Second moments of what linears read, gathered on the device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};
use nalgebra::DMatrix;
use treillage_backend::{Error, RouteWeighting};
use treillage_linalg::Hessian;

use crate::context::flat_grid;
use crate::{Buffer, Context, Slice, Tensor, Work};

/// Inputs of a tile of `moments/gram`, in rows and in columns.
const SIDE: usize = 128;
/// Values behind the tiles: how much rows counted, how many they were, how many were left out; the rest keeps slots aligned.
const COUNTS: usize = 64;
/// Lanes of `moments/weigh`.
const WORKGROUP: u32 = 256;

/// The running second moment of a linear's input: `Σ w x xᵀ` in f32, of which the tiles on the diagonal and below it are kept. Cloning
/// copies the handle.
///
/// Memory is taken when something is to be gathered, `4 · 128² · n (n + 1) / 2` bytes with `n = ⌈width / 128⌉`: 9 MB for 2048 inputs.
#[derive(Clone, Debug)]
pub struct Moments(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    width: usize,
    slot: Mutex<Option<Slot>>,
}

/// Where sums lie: slot `number` of a stack of equal ones.
#[derive(Clone, Debug)]
struct Slot {
    stack: Buffer,
    number: usize,
}

/// Rows of a layer's experts: those of each lie together.
pub(crate) struct Routed<'a> {
    /// First row of each expert, and the number of rows, u32.
    pub(crate) offsets: &'a Slice,
    /// The choice that each row is, u32.
    pub(crate) sources: &'a Slice,
    /// The weight of each choice.
    pub(crate) weights: &'a Slice,
    pub(crate) weighting: RouteWeighting,
}

impl Moments {
    /// Nothing gathered, of inputs of `width` values.
    pub(crate) fn new(width: usize) -> Self {
        Self(Arc::new(Inner {
            width,
            slot: Mutex::default(),
        }))
    }

    /// Width of the inputs.
    pub(crate) fn width(&self) -> usize {
        self.0.width
    }

    /// Whether both are one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Slot>> {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds rows `x`, each counted once.
    pub(crate) fn observe(&self, context: &Context, x: &Tensor) -> Result<(), Error> {
        x.check_width("input of moments", self.width())?;
        Stack::of(context, &[Some(self.clone())])?.observe(context, x, None)
    }

    /// Takes what was gathered to the host, leaving nothing.
    pub(crate) fn take(&self, context: &Context) -> Result<Hessian, Error> {
        let Some(slot) = self.slot().clone() else {
            return Ok(Hessian::new(self.width()));
        };
        let bytes = slot_bytes(self.width());
        let slice = slot.stack.range(slot.number as u64 * bytes, bytes);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&context.recorder.read(&slice)?);
        context.recorder.clear(&slice);
        let (tiles, counts) = values.split_at(values.len() - COUNTS);
        let sum = lower_triangle(self.width(), tiles);
        let [count, rows, dropped] = [0, 1, 2].map(|i| f64::from(counts[i]));
        Ok(Hessian::from_sum(sum, count, rows as u64, dropped as u64)?)
    }
}

/// Tiles on the diagonal of `width` inputs and below it.
fn tiles(width: usize) -> usize {
    let across = width.div_ceil(SIDE);
    across * (across + 1) / 2
}

fn slot_bytes(width: usize) -> u64 {
    4 * (tiles(width) * SIDE * SIDE + COUNTS) as u64
}

/// The matrix whose lower triangle is that of `tiles`.
fn lower_triangle(width: usize, tiles: &[f32]) -> DMatrix<f32> {
    let mut lower = DMatrix::zeros(width, width);
    let mut tiles = tiles.chunks_exact(SIDE * SIDE);
    for top in (0..width).step_by(SIDE) {
        for (left, tile) in (0..=top).step_by(SIDE).zip(&mut tiles) {
            for (row, values) in tile.chunks_exact(SIDE).take(width - top).enumerate() {
                let columns = SIDE.min(width - left);
                for (column, value) in values[..columns].iter().enumerate() {
                    lower[(top + row, left + column)] = *value;
                }
            }
        }
    }
    lower
}

/// Moments of one width that are gathered together, one for each expert.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    width: usize,
    runs: Vec<Run>,
}

/// Experts whose sums lie one behind the other.
#[derive(Clone, Debug)]
struct Run {
    first: usize,
    count: usize,
    slot: Slot,
}

impl Stack {
    /// Of `moments`, which are of one width; experts without gather nothing. Those that have no memory yet get it together, as far
    /// as a kernel sees at once.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub(crate) fn of(context: &Context, moments: &[Option<Moments>]) -> Result<Self, Error> {
        let width = moments.iter().flatten().next().map_or(0, Moments::width);
        let bytes = slot_bytes(width);
        let most = (context.gpu().max_binding() / bytes).max(1) as usize;
        let waiting = moments.iter().flatten().filter(|m| m.slot().is_none());
        let waiting: Vec<&Moments> = waiting.collect();
        for together in waiting.chunks(most) {
            let what = format!("second moments of {width} inputs");
            let stack = context.gpu().buffer(&what, together.len() as u64 * bytes)?;
            for (number, moments) in together.iter().enumerate() {
                moments.slot().get_or_insert_with(|| Slot {
                    stack: stack.clone(),
                    number,
                });
            }
        }
        let mut runs: Vec<Run> = Vec::new();
        let slots = moments.iter().map(|m| m.as_ref()?.slot().clone());
        for (expert, slot) in slots.enumerate() {
            let Some(slot) = slot else { continue };
            match runs.last_mut() {
                Some(run) if run.goes_on_with(expert, &slot) => run.count += 1,
                _ => runs.push(Run {
                    first: expert,
                    count: 1,
                    slot,
                }),
            }
        }
        Ok(Self { width, runs })
    }

    /// Adds rows `x`: those of each expert to its own, or all to the only one.
    pub(crate) fn observe(
        &self,
        context: &Context,
        x: &Tensor,
        routed: Option<&Routed<'_>>,
    ) -> Result<(), Error> {
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C)]
        struct Params {
            width: u32,
            rows: u32,
            first: u32,
            start: u32,
            slot: u32,
        }
        if self.runs.is_empty() {
            return Ok(());
        }
        let counts = weigh(context, x, routed)?;
        let (x_slice, counts) = (x.slice(), counts.slice());
        for run in &self.runs {
            let params = Params {
                width: self.width as u32,
                rows: x.rows() as u32,
                first: run.first as u32,
                start: run.slot.number as u32,
                slot: (slot_bytes(self.width) / 16) as u32,
            };
            // Half of a product, and its sums read and written.
            let work = Work {
                bytes: x_slice.size() + 2 * run.count as u64 * slot_bytes(self.width),
                operations: (x.rows() * self.width * (self.width + 1)) as u64,
            };
            context.run_for(
                work,
                "moments/gram",
                &[("GROUPED", routed.is_some().into())],
                &[
                    &x_slice,
                    &counts,
                    routed.map_or(&counts, |routed| routed.offsets),
                    &run.slot.stack.slice(),
                ],
                &params,
                [tiles(self.width) as u32, run.count as u32, 1],
            )?;
        }
        Ok(())
    }
}

impl Run {
    fn goes_on_with(&self, expert: usize, slot: &Slot) -> bool {
        self.first + self.count == expert
            && self.slot.stack.id() == slot.stack.id()
            && self.slot.number + self.count == slot.number
    }
}

/// How much each row counts.
fn weigh(context: &Context, x: &Tensor, routed: Option<&Routed<'_>>) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        width: u32,
        rows: u32,
    }
    let counts = context.tensor(1, x.rows())?;
    let params = Params {
        width: x.width() as u32,
        rows: x.rows() as u32,
    };
    let squared = routed.is_some_and(|routed| routed.weighting == RouteWeighting::Squared);
    let uniform = routed.filter(|routed| routed.weighting != RouteWeighting::Uniform);
    let x = x.slice();
    context.run(
        "moments/weigh",
        &[
            ("WG", WORKGROUP.into()),
            ("ROUTED", uniform.is_some().into()),
            ("SQUARED", squared.into()),
        ],
        &[
            &x,
            uniform.map_or(&x, |routed| routed.sources),
            uniform.map_or(&x, |routed| routed.weights),
            &counts.slice(),
        ],
        &params,
        flat_grid(params.rows.into()),
    )?;
    Ok(counts)
}

/// Where a layer's experts add what they read.
#[derive(Clone, Debug)]
pub(crate) struct ExpertMoments {
    /// For gate and up.
    pub(crate) inputs: Stack,
    pub(crate) downs: Stack,
    pub(crate) weighting: RouteWeighting,
}

/// Adds rows `x` to each of `moments`, once to those that occur twice.
pub(crate) fn observe<'a>(
    context: &Context,
    x: &Tensor,
    moments: impl Iterator<Item = &'a Moments>,
) -> Result<(), Error> {
    let mut seen: Vec<&Moments> = Vec::new();
    for moments in moments {
        if !seen.iter().any(|other| other.is(moments)) {
            moments.observe(context, x)?;
            seen.push(moments);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_become_a_triangle() {
        let width = 130;
        let mut values = vec![f32::NAN; tiles(width) * SIDE * SIDE];
        let entry = |row: usize, column: usize| (1000 * row + column) as f32;
        for row in 0..width {
            for column in 0..=row {
                let tile = [0, 1][row / SIDE] + column / SIDE;
                values[(tile * SIDE + row % SIDE) * SIDE + column % SIDE] = entry(row, column);
            }
        }
        let lower = lower_triangle(width, &values);
        for row in 0..width {
            for column in 0..=row {
                assert_eq!(lower[(row, column)], entry(row, column));
            }
        }
    }
}
