//! Which kernel multiplies, and how its work is cut.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{Error, LinearShape};
use treillage_shaders::linear::{Exchange, Route};

use super::kernels::Kernel;
use super::store::Kind;
use super::{ExpertRows, Linear};
use crate::{Context, Dispatch, Gpu, Slice, Tensor, Work};

/// Linears that one kernel multiplies with: each has its output bound.
const MAX_TOGETHER: usize = 3;
/// Rows that share decoded weights, where they are few: from more on, products of many rows pay.
pub(super) const MAX_ROWS: usize = 16;
/// The same on the plain path, which is taken when something went wrong: kernels that are compiled soon matter more than many rows.
const PLAIN_ROWS: usize = 4;
/// Workgroups that keep a large device busy.
pub(super) const BUSY: usize = 64;
/// What is multiplied with what.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    All,
    Experts(ExpertRows<'a>),
}

/// A call's rows, the same for all of its kernels.
pub(super) struct Job<'a> {
    pub(super) context: &'a Context,
    pub(super) route: Route,
    pub(super) picks: Option<&'a Slice>,
    /// Of the output.
    pub(super) rows: usize,
    pub(super) per_row: usize,
    pub(super) residual: Option<&'a Tensor>,
    /// Values from the input's first half to its second, if it is gated.
    pub(super) up: u32,
    /// The only row of the output to make, where experts are picked; all, if `None`.
    pub(super) pick: Option<usize>,
}

/// A linear and its output.
pub(super) type Product<'a> = (&'a Linear, &'a Tensor);

/// The scalars of all kernels of linears, as in `linear/params`.
#[derive(Clone, Copy, Pod, Zeroable, Default)]
#[repr(C)]
pub(super) struct Params {
    pub(super) headers: [u32; 4],
    pub(super) ends: [u32; 4],
    pub(super) kind: u32,
    pub(super) width: u32,
    pub(super) rows: u32,
    pub(super) per_row: u32,
    pub(super) experts: u32,
    pub(super) blocks: u32,
    pub(super) per_split: u32,
    pub(super) splits: u32,
    pub(super) pairs: u32,
    pub(super) first: u32,
    pub(super) up: u32,
    pub(super) pick: u32,
    pub(super) mask: u32,
    pub(super) all: u32,
    pub(super) padding: [u32; 2],
    pub(super) one_over: [f32; 3],
    pub(super) end: u32,
}

/// `linear(x)` for each of `linears`, plus `residual`.
pub(super) fn run(
    context: &Context,
    x: &Tensor,
    rows: Rows<'_>,
    linears: &[&Linear],
    residual: Option<&Tensor>,
) -> Result<Vec<Tensor>, Error> {
    let (route, picks, rows, per_row) = match rows {
        Rows::All => (Route::All, None, x.rows(), 1),
        Rows::Experts(ExpertRows::Picked {
            experts,
            rows,
            per_row,
        }) => (Route::Picked, Some(experts), rows, per_row),
        Rows::Experts(ExpertRows::Grouped { offsets, rows }) => {
            (Route::Grouped, Some(offsets), rows, 1)
        }
    };
    Error::check_shape("rows of an input", rows.div_ceil(per_row.max(1)), x.rows())?;
    let widths: Vec<usize> = linears.iter().map(|l| l.shape.out_features).collect();
    let outputs = context.tensors(rows, &widths)?;
    let plain = context.guard.is_plain();
    // Kinds that one kernel takes together.
    let mut families: Vec<Vec<Kind>> = Vec::new();
    for linear in linears {
        let LinearShape {
            in_features,
            out_features,
        } = linear.shape;
        x.check_width("input of a linear", in_features)?;
        if let Some(residual) = residual {
            residual.check_width("width of a residual", out_features)?;
        }
        for &kind in &linear.stored.kinds {
            let fits = |family: &&mut Vec<Kind>| match plain {
                true => family[0] == kind,
                false => family[0].goes_with(kind),
            };
            match families.iter_mut().find(fits) {
                Some(family) if family.contains(&kind) => {}
                Some(family) => family.push(kind),
                None => families.push(vec![kind]),
            }
        }
    }
    // One expert after the other, each a choice of one row.
    let choices: Vec<Option<usize>> = match (route, plain) {
        (Route::Picked, true) => (0..rows).map(Some).collect(),
        _ => vec![None],
    };
    for pick in choices {
        let job = Job {
            context,
            route,
            picks,
            rows,
            per_row,
            residual,
            up: x.up(),
            pick,
        };
        // Each output is bound, as are experts and what splits need, eight buffers at most.
        let most = match (residual, route) {
            _ if plain => 1,
            (Some(_), _) => 1,
            (None, Route::All) => MAX_TOGETHER,
            (None, _) => MAX_TOGETHER - 1,
        };
        for kinds in &families {
            let products = linears.iter().copied().zip(&outputs);
            job.run(x, kinds, products.collect(), most)?;
        }
    }
    Ok(outputs)
}

/// How teams of 32 lanes exchange values on a device.
pub(super) fn exchange(gpu: &Gpu) -> Exchange {
    let barriers = gpu.features().contains(wgpu::Features::SUBGROUP_BARRIER);
    match (gpu.has_subgroups(), gpu.subgroup_sizes()) {
        (true, (32, 32)) if barriers => Exchange::Subgroup,
        (true, (32.., _)) => Exchange::Shuffle,
        _ => Exchange::Workgroup,
    }
}

impl Job<'_> {
    /// Those of `products` that have matrices of one of `kinds`, at most `most` in one kernel.
    fn run(
        &self,
        x: &Tensor,
        kinds: &[Kind],
        mut products: Vec<Product<'_>>,
        most: usize,
    ) -> Result<(), Error> {
        let has = |linear: &Linear, kind: &Kind| linear.stored.kinds.contains(kind);
        products.retain(|(linear, _)| kinds.iter().any(|kind| has(linear, kind)));
        while let Some((first, _)) = products.first() {
            // A kernel sees one buffer of weights.
            let buffer = first.stored.slice.key().0;
            let mut together = Vec::with_capacity(most);
            products.retain(|&product| {
                let fits = product.0.stored.slice.key().0 == buffer && together.len() < most;
                if fits {
                    together.push(product);
                }
                !fits
            });
            // Of those that are multiplied here.
            let there = |kind: &&Kind| together.iter().any(|(linear, _)| has(linear, kind));
            let kinds: Vec<Kind> = kinds.iter().filter(there).copied().collect();
            match kinds[0] {
                Kind::Trellis { codebook, .. } => self.trellis(x, &kinds, codebook, &together)?,
                // Such go alone.
                Kind::Rows { .. } => self.by_rows(x, kinds[0], &together)?,
            }
        }
        Ok(())
    }

    pub(super) fn exchange(&self) -> Exchange {
        exchange(self.context.gpu())
    }

    /// Rows that meet the same matrix, of `experts`, as a rule.
    pub(super) fn sharing(&self, experts: usize) -> usize {
        match self.route {
            Route::All => self.rows,
            Route::Picked => 1,
            Route::Grouped => self.rows.div_ceil(experts.max(1)),
        }
    }

    /// Whether so many rows share a matrix, of `experts`, that a product of many rows is worth what it takes.
    pub(super) fn are_many(&self, experts: usize) -> bool {
        self.sharing(experts) > MAX_ROWS
    }

    /// Rows that a workgroup multiplies at once, of `experts`.
    pub(super) fn rows_at_once(&self, experts: usize) -> usize {
        let most = match self.context.guard.is_plain() {
            true => PLAIN_ROWS,
            false => MAX_ROWS,
        };
        self.sharing(experts).next_power_of_two().min(most)
    }

    /// Groups of `rows` rows.
    pub(super) fn groups(&self, rows: usize, experts: usize) -> usize {
        match self.route {
            Route::All => self.rows.div_ceil(rows),
            Route::Picked if self.pick.is_some() => 1,
            Route::Picked => self.rows,
            Route::Grouped => self.rows.div_ceil(rows) + experts,
        }
    }

    pub(super) fn params(
        &self,
        kinds: &[Kind],
        products: &[Product<'_>],
        per_group: usize,
    ) -> Params {
        let (kind, mask) = Kind::code_of(kinds);
        let mut params = Params {
            kind,
            mask,
            width: products[0].0.shape.in_features as u32,
            rows: self.rows as u32,
            per_row: self.per_row.max(1) as u32,
            experts: products[0].0.experts as u32,
            splits: 1,
            up: self.up,
            pick: self.pick.unwrap_or_default() as u32,
            ..Params::default()
        };
        let mut end = 0;
        for i in 0..4 {
            if let Some((linear, _)) = products.get(i) {
                params.headers[i] = linear.stored.header;
                end += linear.shape.out_features.div_ceil(per_group) as u32;
            }
            params.ends[i] = end;
        }
        params
    }

    /// What `products` take at the least, with matrices of one of `kinds`.
    pub(super) fn work(&self, kinds: &[Kind], products: &[Product<'_>], x: &Tensor) -> Work {
        let mut work = Work {
            bytes: x.slice().size(),
            operations: 0,
        };
        for (linear, out) in products {
            let matrices = match self.route {
                Route::All => 1,
                Route::Picked | Route::Grouped => linear.experts.min(self.rows) as u64,
            };
            let bytes = linear.stored.mean_bytes(kinds, linear.shape);
            work.bytes += matrices * bytes + out.slice().size();
            work.operations += 2 * (linear.shape.weights() * self.rows) as u64;
        }
        work
    }

    pub(super) fn record(
        &self,
        kernel: Kernel,
        inputs: &[&Slice],
        products: &[Product<'_>],
        more: &[&Slice],
        params: &Params,
        grid: [usize; 3],
        work: Work,
    ) -> Result<(), Error> {
        let context = self.context;
        let pipeline = context.linears.get(context.gpu(), kernel)?;
        let mut grid_words = [0; 3];
        for (word, size) in grid_words.iter_mut().zip(grid) {
            *word = u32::try_from(size).unwrap_or(u32::MAX);
            if *word > context.gpu().limits().max_compute_workgroups_per_dimension {
                return Err(Error::Device(format!(
                    "a linear of {} rows is too large a dispatch",
                    self.rows
                )));
            }
        }
        let weights = products[0].0.stored.slice.buffer().slice();
        let mut slices = vec![weights.clone()];
        if matches!(
            kernel,
            Kernel::TrellisGemv(_)
                | Kernel::TrellisFew(_)
                | Kernel::TrellisDecode(_)
                | Kernel::TrellisMatmul(_)
        ) {
            // Seen as words and as fours of them.
            slices.push(weights);
        }
        let (x, other_inputs) = inputs.split_at(inputs.len().min(1));
        slices.extend(x.iter().map(|&slice| slice.clone()));
        slices.extend(self.picks.cloned());
        slices.extend(other_inputs.iter().map(|&slice| slice.clone()));
        if matches!(
            kernel,
            Kernel::TrellisGemv(_)
                | Kernel::TrellisFew(_)
                | Kernel::Outputs(_)
                | Kernel::Rows(_)
                | Kernel::RowsMatmul(_)
        ) {
            slices.extend(self.residual.map(Tensor::slice));
        }
        slices.extend(products.iter().map(|(_, out)| out.slice()));
        let slices: Vec<&Slice> = slices.iter().chain(more.iter().copied()).collect();
        context.recorder.record(&Dispatch {
            pipeline: &pipeline,
            slices: &slices,
            immediates: bytemuck::bytes_of(params),
            grid: grid_words,
            work,
        });
        Ok(())
    }
}
