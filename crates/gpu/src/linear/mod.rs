//! Linear layers.
//!
//! The contract between the ops (`backend`) and the kernels of this folder:
//!
//! - [`Linear`] is one matrix, or the same matrix of all experts, stacked, on the device, in whatever format.
//! - [`project`] multiplies one input with several linears: q, k and v; gate and up.
//! - [`project_experts`] multiplies rows each with the matrix of its own expert.
//!
//! Inputs and outputs are f32 `[rows, width]` of the layers' logical (unpadded) widths; rotations, scales and biases of a
//! format are inside. Which kernel runs is up to the number of rows, the format and the device.

mod cut;
mod dispatch;
mod kernels;
mod label;
mod matmul;
mod rows;
mod store;
mod trellis;

use std::ops::Range;

use treillage_backend::{Error, LinearShape, LinearWeights};

use crate::moments::{self, Moments};
use crate::{Context, Slice, Tensor};

pub(crate) use kernels::Kernels;
pub(crate) use store::DenseRows;

/// Which rows meet which expert.
#[derive(Clone, Copy, Debug)]
pub enum ExpertRows<'a> {
    /// Few rows: output row `r` is row `r / per_row` of the input times the matrix of expert `experts[r]`, for `rows`
    /// output rows; `experts` holds u32 on the device.
    Picked {
        /// Expert of each output row.
        experts: &'a Slice,
        /// Output rows.
        rows: usize,
        /// Output rows of each input row.
        per_row: usize,
    },
    /// Many rows: input row `r` is times the matrix of the expert `e` with `offsets[e] ≤ r < offsets[e + 1]`, u32 on the
    /// device, for `rows` rows.
    Grouped {
        /// First row of each expert, and the number of rows: `experts + 1` values.
        offsets: &'a Slice,
        /// Rows of input and output.
        rows: usize,
    },
}

/// A linear layer on the device: one, or a stack of experts of the same size.
#[derive(Debug)]
pub struct Linear {
    shape: LinearShape,
    experts: usize,
    stored: store::Stored,
    /// Where it adds what it reads.
    watch: Option<Moments>,
}

impl Linear {
    /// Loads one.
    ///
    /// # Errors
    /// [`Error::Shape`] if `weights` are not of that size; whatever the device reports.
    pub fn load(
        context: &Context,
        weights: &LinearWeights,
        shape: LinearShape,
    ) -> Result<Self, Error> {
        Self::stack(context, std::slice::from_ref(weights), shape)
    }

    /// Loads one for each expert; formats may differ between experts.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub fn stack(
        context: &Context,
        weights: &[LinearWeights],
        shape: LinearShape,
    ) -> Result<Self, Error> {
        let [linear] = Self::stack_together(context, [(weights, shape)])?;
        Ok(linear)
    }

    /// Loads several stacks next to each other, so that those that share an input can be multiplied at once.
    ///
    /// # Errors
    /// As [`Linear::load`].
    pub fn stack_together<const N: usize>(
        context: &Context,
        stacks: [(&[LinearWeights], LinearShape); N],
    ) -> Result<[Self; N], Error> {
        let stored = store::store(context, &stacks)?;
        // Asked now, so that nothing waits for the answer later.
        context.linears.matrices(context)?;
        let mut linears = stacks
            .into_iter()
            .zip(stored)
            .map(|((weights, shape), stored)| Self {
                shape,
                experts: weights.len(),
                stored,
                watch: None,
            });
        Ok(std::array::from_fn(|_| {
            linears
                .next()
                .expect("as many are stored as there are stacks")
        }))
    }

    /// Some of a stack's matrices as a stack of their own; nothing is copied.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        Self {
            shape: self.shape,
            experts: range.len(),
            stored: self.stored.part(range),
            watch: None,
        }
    }

    /// Whether it is the last matrix of `stack`.
    pub(crate) fn is_last_of(&self, stack: &Self) -> bool {
        let last = stack.part(stack.experts - 1..stack.experts).stored;
        let place = |stored: &store::Stored| (stored.slice.key(), stored.header);
        self.experts == 1 && place(&self.stored) == place(&last)
    }

    /// From now on it adds what it reads to `moments`, where [`project`] multiplies with it.
    pub(crate) fn watch(&mut self, moments: &Moments) -> Result<(), Error> {
        let width = self.shape.in_features;
        Error::check_shape("width of moments", width, moments.width())?;
        self.watch = Some(moments.clone());
        Ok(())
    }

    /// Whether somebody wants to know what it reads.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Its rows, if it is a single one, dense and without bias.
    pub(crate) fn dense(&self) -> Option<&DenseRows> {
        self.stored.dense.as_ref()
    }

    /// Whether its input may be a gated pair ([`Tensor::gated`]): kernels that prepare their input before they multiply compute
    /// it as they read; those that read it for every few outputs would compute it as often, and moments are of plain values.
    pub(crate) fn takes_gated(&self) -> bool {
        !self.is_watched() && self.stored.kinds.iter().all(|kind| kind.prepares_input())
    }

    /// Its logical size.
    pub fn shape(&self) -> LinearShape {
        self.shape
    }
}

/// `linear(x)`, plus `residual` if there is one, for each of `linears`.
///
/// # Errors
/// [`Error::Shape`] for a wrong width; whatever the device reports.
pub fn project(
    context: &Context,
    x: &Tensor,
    linears: &[&Linear],
    residual: Option<&Tensor>,
) -> Result<Vec<Tensor>, Error> {
    let watches = linears.iter().filter_map(|linear| linear.watch.as_ref());
    moments::observe(context, x, watches)?;
    dispatch::run(context, x, dispatch::Rows::All, linears, residual)
}

/// Rows of `x` times the matrices of their experts, for each of `stacks`.
///
/// # Errors
/// [`Error::Shape`] for a wrong width; whatever the device reports.
pub fn project_experts(
    context: &Context,
    x: &Tensor,
    rows: ExpertRows<'_>,
    stacks: &[&Linear],
) -> Result<Vec<Tensor>, Error> {
    dispatch::run(context, x, dispatch::Rows::Experts(rows), stacks, None)
}

/// Whether products of many rows use the device's matrix units. Asks the device the first time.
///
/// # Errors
/// Whatever the device reports.
pub fn uses_matrices(context: &Context) -> Result<bool, Error> {
    Ok(context.linears.matrices(context)?)
}
