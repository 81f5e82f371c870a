//! Which kernel multiplies, and how its work is cut.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{Error, LinearShape};
use treillage_shaders::linear::{Exchange, Route};
use treillage_shaders::rows::{Arrange, RowsGemv};
use treillage_shaders::trellis::{Activations, Codebook, TrellisGemm, TrellisGemv, TrellisRotate};

use super::kernels::{Kernel, Kernels};
use super::store::Kind;
use super::{ExpertRows, Linear};
use crate::{Context, Dispatch, Slice, Tensor, Work};

/// Linears that one kernel multiplies with: each has its output bound.
const MAX_TOGETHER: usize = 3;
/// Rows that share decoded weights.
const MAX_ROWS: usize = 16;
/// From so many rows that share a matrix on, matrix units are worth an input that is written out.
const MATRIX_ROWS: usize = 8;
/// Workgroups that keep a large device busy; fewer are cut along the input axis.
const BUSY: usize = 64;
/// Inputs and outputs of a Hadamard block.
const BLOCK: usize = 128;

/// What is multiplied with what.
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    All,
    Experts(ExpertRows<'a>),
}

/// A call's rows, the same for all of its kernels.
struct Job<'a> {
    context: &'a Context,
    route: Route,
    picks: Option<&'a Slice>,
    /// Of the output.
    rows: usize,
    per_row: usize,
    residual: Option<&'a Tensor>,
    /// Values from the input's first half to its second, if it is gated.
    up: u32,
}

/// A linear and its output.
type Product<'a> = (&'a Linear, &'a Tensor);

#[derive(Clone, Copy, Pod, Zeroable, Default)]
#[repr(C)]
struct Params {
    headers: [u32; 4],
    ends: [u32; 4],
    kind: u32,
    width: u32,
    rows: u32,
    per_row: u32,
    experts: u32,
    blocks: u32,
    per_split: u32,
    splits: u32,
    pairs: u32,
    up: u32,
    padding: [u32; 2],
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
    let job = Job {
        context,
        route,
        picks,
        rows,
        per_row,
        residual,
        up: x.up(),
    };
    let widths: Vec<usize> = linears.iter().map(|l| l.shape.out_features).collect();
    let outputs = context.tensors(rows, &widths)?;
    let mut kinds = Vec::new();
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
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
    for kind in kinds {
        let mut products: Vec<Product<'_>> = linears.iter().copied().zip(&outputs).collect();
        products.retain(|(linear, _)| linear.stored.kinds.contains(&kind));
        while let Some((first, _)) = products.first() {
            // A kernel sees one buffer of weights.
            let buffer = first.stored.slice.key().0;
            // Each output is bound, as are experts and what splits need, eight buffers at most.
            let most = match (residual, route) {
                (Some(_), _) => 1,
                (None, Route::All) => MAX_TOGETHER,
                (None, _) => MAX_TOGETHER - 1,
            };
            let mut together = Vec::with_capacity(most);
            products.retain(|&product| {
                let fits = product.0.stored.slice.key().0 == buffer && together.len() < most;
                if fits {
                    together.push(product);
                }
                !fits
            });
            match kind {
                Kind::Trellis { bits, codebook } => {
                    job.trellis(x, kind, bits, codebook, &together)?;
                }
                Kind::Rows { .. } => job.by_rows(x, kind, &together)?,
            }
        }
    }
    Ok(outputs)
}

/// How a trellis kernel is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    teams: usize,
    parts: usize,
    /// Input blocks of a workgroup.
    per_split: usize,
    splits: usize,
}

impl Cut {
    /// For `units` workgroups of `rows` rows, without splits, over `blocks` input blocks.
    fn new(units: usize, blocks: usize, rows: usize, most_teams: usize) -> Self {
        let whole = Self {
            teams: most_teams,
            parts: 1,
            per_split: blocks,
            splits: 1,
        };
        let mut cut = match rows {
            1 | 2 => whole,
            4 => Self {
                teams: 8,
                parts: 2,
                ..whole
            },
            8 => Self {
                teams: 8,
                parts: 4,
                ..whole
            },
            _ => Self {
                teams: 4,
                parts: 4,
                ..whole
            },
        };
        if rows == 2 {
            cut.teams = 8;
        }
        if units < BUSY {
            (cut.per_split, cut.splits) = split(units, blocks, 2 * BUSY);
        }
        // Teams without a block of their own help with another's.
        while cut.teams / cut.parts >= 2 * cut.per_split && cut.parts < 4 && cut.teams > cut.parts {
            match cut.teams > 8 {
                true => cut.teams /= 2,
                false => cut.parts *= 2,
            }
        }
        cut
    }
}

/// Input blocks of a split and the number of splits that make about `wanted` workgroups of `units`.
fn split(units: usize, blocks: usize, wanted: usize) -> (usize, usize) {
    if units == 0 || units >= wanted || units > Kernels::COUNTERS {
        return (blocks, 1);
    }
    let splits = wanted.div_ceil(units).min(blocks.div_ceil(2)).max(1);
    let per_split = blocks.div_ceil(splits);
    (per_split, blocks.div_ceil(per_split))
}

impl Job<'_> {
    fn exchange(&self) -> Exchange {
        let gpu = self.context.gpu();
        match (gpu.has_subgroups(), gpu.subgroup_sizes()) {
            (true, (32, 32)) => Exchange::Subgroup,
            (true, (32.., _)) => Exchange::Shuffle,
            _ => Exchange::Workgroup,
        }
    }

    /// Rows that a workgroup multiplies at once, of `experts`.
    fn rows_at_once(&self, experts: usize) -> usize {
        let rows = match self.route {
            Route::All => self.rows,
            Route::Picked => 1,
            Route::Grouped => self.rows.div_ceil(experts.max(1)),
        };
        rows.next_power_of_two().min(MAX_ROWS)
    }

    /// Groups of `rows` rows.
    fn groups(&self, rows: usize, experts: usize) -> usize {
        match self.route {
            Route::All => self.rows.div_ceil(rows),
            Route::Picked => self.rows,
            Route::Grouped => self.rows.div_ceil(rows) + experts,
        }
    }

    fn params(&self, kind: Kind, products: &[Product<'_>], per_group: usize) -> Params {
        let mut params = Params {
            kind: kind.code(),
            width: products[0].0.shape.in_features as u32,
            rows: self.rows as u32,
            per_row: self.per_row.max(1) as u32,
            experts: products[0].0.experts as u32,
            splits: 1,
            up: self.up,
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

    /// What `products` take at the least.
    fn work(&self, kind: Kind, products: &[Product<'_>], x: &Tensor) -> Work {
        let mut work = Work {
            bytes: x.slice().size(),
            operations: 0,
        };
        for (linear, out) in products {
            let matrices = match self.route {
                Route::All => 1,
                Route::Picked | Route::Grouped => linear.experts.min(self.rows) as u64,
            };
            work.bytes += matrices * kind.bytes(linear.shape) + out.slice().size();
            work.operations += 2 * (linear.shape.weights() * self.rows) as u64;
        }
        work
    }

    fn record(
        &self,
        kernel: Kernel,
        x: &Tensor,
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
        if matches!(kernel, Kernel::Trellis(_)) {
            // Seen as words and as fours of them.
            slices.push(weights);
        }
        slices.push(x.slice());
        slices.extend(self.picks.cloned());
        if !matches!(kernel, Kernel::Arrange(_) | Kernel::Rotate(_)) {
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

    /// Whether subgroups multiply matrices as `linear/trellis_gemm` does.
    fn has_matrices(&self) -> bool {
        use wgpu::CooperativeScalarType::{F16, F32};
        let gpu = self.context.gpu();
        let fits = |m: &wgpu::CooperativeMatrixProperties| {
            (m.m_size, m.n_size, m.k_size) == (16, 16, 16) && (m.ab_type, m.cr_type) == (F16, F32)
        };
        gpu.has_f16()
            && self.exchange() == Exchange::Subgroup
            && gpu.cooperative_matrices().iter().any(fits)
    }

    /// Products with matrix units, a linear at a time: each wants its own rotated input.
    fn matrices(
        &self,
        x: &Tensor,
        kind: Kind,
        bits: usize,
        codebook: Codebook,
        product: Product<'_>,
    ) -> Result<(), Error> {
        const ROTATED: usize = 16;
        let (linear, _) = product;
        let experts = linear.experts;
        let many = match self.route {
            Route::All | Route::Picked => self.rows,
            Route::Grouped => self.rows / experts.max(1),
        };
        let rows = if many > 24 { 64 } else { 16 };
        let blocks = linear.shape.in_features.div_ceil(BLOCK);
        // Two halves a word, and rows for the last workgroup to read beyond those that there are.
        let rotated = self.context.tensor(self.rows + rows, blocks * BLOCK / 2)?;
        let mut params = self.params(kind, &[(linear, &rotated)], BLOCK);
        let columns = params.ends[3] as usize;
        params.blocks = blocks as u32;
        params.ends = [blocks as u32; 4];
        let rotate = Kernel::Rotate(TrellisRotate {
            rows: ROTATED,
            teams: 8,
            route: self.route,
            exchange: self.exchange(),
        });
        let grid = [blocks, 1, self.groups(ROTATED, experts)];
        let work = Work {
            bytes: x.slice().size() + rotated.slice().size(),
            operations: 0,
        };
        self.record(rotate, x, &[(linear, &rotated)], &[], &params, grid, work)?;

        let groups = self.groups(rows, experts);
        params.ends = [columns as u32; 4];
        let (per_split, splits) = split(columns * groups, blocks, 4 * BUSY);
        params.per_split = per_split as u32;
        params.splits = splits as u32;
        let kernel = Kernel::Matrices(TrellisGemm {
            bits,
            codebook,
            rows,
            route: self.route,
            residual: self.residual.is_some(),
            split: splits > 1,
        });
        let grid = [columns, splits, groups];
        let work = self.work(kind, &[product], &rotated);
        if splits == 1 {
            return self.record(kernel, &rotated, &[product], &[], &params, grid, work);
        }
        let partials = self
            .context
            .tensor(columns * groups * splits, rows * BLOCK)?;
        let counters = self.context.linears.counters(self.context.gpu())?;
        let more = [&partials.slice(), &counters];
        self.record(kernel, &rotated, &[product], &more, &params, grid, work)
    }

    fn trellis(
        &self,
        x: &Tensor,
        kind: Kind,
        bits: usize,
        codebook: Codebook,
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        let gpu = self.context.gpu();
        let experts = products[0].0.experts;
        let rows = self.rows_at_once(experts);
        if rows >= MATRIX_ROWS && self.has_matrices() {
            for &product in products {
                self.matrices(x, kind, bits, codebook, product)?;
            }
            return Ok(());
        }
        let groups = self.groups(rows, experts);
        let blocks = products[0].0.shape.in_features.div_ceil(BLOCK);
        let mut params = self.params(kind, products, BLOCK);
        let columns = params.ends[3] as usize;
        let limits = gpu.limits();
        let roomy = limits.max_compute_invocations_per_workgroup >= 512
            && limits.max_compute_workgroup_storage_size >= 40 << 10;
        let cut = Cut::new(columns * groups, blocks, rows, if roomy { 16 } else { 8 });
        params.blocks = blocks as u32;
        params.per_split = cut.per_split as u32;
        params.splits = cut.splits as u32;
        params.pairs = 4 / cut.parts as u32;
        let sign = codebook == Codebook::Mul1 && rows == 1 && !gpu.options().exact;
        let kernel = Kernel::Trellis(TrellisGemv {
            bits,
            codebook,
            activations: match sign {
                true => Activations::Sign,
                false => Activations::Exact,
            },
            rows,
            teams: cut.teams,
            parts: cut.parts,
            outputs: products.len(),
            route: self.route,
            residual: self.residual.is_some(),
            split: cut.splits > 1,
            exchange: self.exchange(),
        });
        let grid = [columns, cut.splits, groups];
        let work = self.work(kind, products, x);
        if cut.splits == 1 {
            return self.record(kernel, x, products, &[], &params, grid, work);
        }
        let partials = self
            .context
            .tensor(columns * groups * cut.splits, rows * BLOCK)?;
        let more = [&partials.slice(), &self.context.linears.counters(gpu)?];
        self.record(kernel, x, products, &more, &params, grid, work)
    }

    fn by_rows(&self, x: &Tensor, kind: Kind, products: &[Product<'_>]) -> Result<(), Error> {
        let Kind::Rows {
            weights,
            scales,
            group,
            rotation,
            ..
        } = kind
        else {
            return Ok(());
        };
        if kind.prepares_input() {
            // Each has an order of its own.
            for &product in products {
                let arranged = self.arrange(x, kind, rotation, product)?;
                let job = Job {
                    per_row: 1,
                    up: 0,
                    ..*self
                };
                job.multiply_rows(&arranged, kind, (weights, scales, group), &[product])?;
            }
            return Ok(());
        }
        self.multiply_rows(x, kind, (weights, scales, group), products)
    }

    fn arrange(
        &self,
        x: &Tensor,
        kind: Kind,
        rotation: usize,
        (linear, _): Product<'_>,
    ) -> Result<Tensor, Error> {
        const TEAMS: usize = 4;
        let width = linear.shape.in_features;
        let arranged = self.context.tensor(self.rows, width)?;
        let per_group = BLOCK * TEAMS;
        let mut params = self.params(kind, &[(linear, &arranged)], per_group);
        let columns = width.div_ceil(per_group);
        params.ends = [columns as u32; 4];
        let kernel = Kernel::Arrange(Arrange {
            rotation,
            teams: TEAMS,
            route: self.route,
            exchange: self.exchange(),
        });
        let grid = [columns, 1, self.groups(1, linear.experts)];
        let work = Work {
            bytes: 2 * arranged.slice().size(),
            operations: 0,
        };
        let product = [(linear, &arranged)];
        self.record(kernel, x, &product, &[], &params, grid, work)?;
        Ok(arranged)
    }

    fn multiply_rows(
        &self,
        x: &Tensor,
        kind: Kind,
        (weights, scales, group): (
            treillage_shaders::rows::Weights,
            treillage_shaders::rows::Scales,
            usize,
        ),
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        const TEAMS: usize = 4;
        let experts = products[0].0.experts;
        let rows = self.rows_at_once(experts);
        let mut params = self.params(kind, products, 4 * TEAMS);
        params.blocks = products[0].0.shape.in_features.div_ceil(8) as u32;
        let kernel = Kernel::Rows(RowsGemv {
            weights,
            scales,
            group,
            rows,
            teams: TEAMS,
            outputs: products.len(),
            route: self.route,
            residual: self.residual.is_some(),
            exchange: self.exchange(),
        });
        let grid = [params.ends[3] as usize, 1, self.groups(rows, experts)];
        let work = self.work(kind, products, x);
        self.record(kernel, x, products, &[], &params, grid, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_legal() {
        for most in [8, 16] {
            for rows in [1, 2, 4, 8, 16] {
                for blocks in 1..40 {
                    for units in [1, 2, 3, 16, 40, 63, 64, 1000] {
                        let cut = Cut::new(units, blocks, rows, most);
                        let what = format!("{units} {blocks} {rows} {most}: {cut:?}");
                        assert!([1, 2, 4].contains(&cut.parts), "{what}");
                        assert!(cut.teams.is_multiple_of(cut.parts), "{what}");
                        assert!(cut.per_split * cut.splits >= blocks, "{what}");
                        assert!(cut.per_split * (cut.splits - 1) < blocks, "{what}");
                        assert!(cut.splits == 1 || units <= Kernels::COUNTERS, "{what}");
                        // 16 KiB of workgroup memory for activations in f32, 24 as signs and bytes.
                        assert!(rows * cut.teams / cut.parts <= 16, "{what}");
                    }
                }
            }
        }
    }
}
