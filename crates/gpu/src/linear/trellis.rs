//! Products with trellis-coded matrices: which kernels, and how their work is cut.

use treillage_backend::Error;
use treillage_shaders::linear::Route;
use treillage_shaders::matmul::Matmul;
use treillage_shaders::trellis::{
    Activations, Codebook, Rates, Splits, TrellisFew, TrellisGemv, TrellisMatmul,
};

use super::cut::{FewCut, RowCut};

use super::dispatch::{BUSY, Job, Product};
use super::kernels::Kernel;
use super::matmul::{BLOCK, split};
use super::store::Kind;
use crate::{Slice, Tensor};

/// Rows that share a matrix from which on matrix units pay.
const FEW: usize = 9;

impl Job<'_> {
    /// The product of some rows with one linear, by matrix units, from weights that are decoded where they are multiplied. Gives false,
    /// having done nothing, where sums do not fit a binding.
    fn some_rows(
        &self,
        x: &Tensor,
        kind: Kind,
        bits: usize,
        codebook: Codebook,
        product: Product<'_>,
    ) -> Result<bool, Error> {
        let (linear, _) = product;
        let rows = self
            .sharing(linear.experts)
            .next_power_of_two()
            .clamp(16, Matmul::ROWS);
        let blocks = linear.shape.in_features.div_ceil(BLOCK);
        let columns = linear.shape.out_features.div_ceil(BLOCK);
        let groups = self.groups(rows, linear.experts);
        // Loading matrices is what takes time: fewer teams load activations less often. Sums of more rows are the more registers, and
        // the more to add up after splits.
        let (teams, wanted) = match rows {
            16 => (4, 12 * BUSY),
            _ => (8, 4 * BUSY),
        };
        let (per_split, splits) = split(columns * groups, blocks, wanted);
        if 4 * (splits * groups * rows * columns * BLOCK) as u64 > self.context.gpu().max_binding()
        {
            return Ok(false);
        }
        let rotated = self.tiled(x, kind, linear, rows)?;
        let sums = self
            .context
            .tensor(splits * groups * rows, columns * BLOCK)?;
        let mut params = self.params(&[kind], &[product], BLOCK);
        params.blocks = blocks as u32;
        params.per_split = per_split as u32;
        params.splits = splits as u32;
        let kernel = Kernel::TrellisMatmul(TrellisMatmul {
            bits,
            codebook,
            rows,
            teams,
            route: self.route,
        });
        let to = [(linear, &sums)];
        let work = self.work(&[kind], &to, &rotated);
        let grid = [columns, splits, groups];
        self.record(kernel, &[&rotated.slice()], &to, &[], &params, grid, work)?;
        self.finish(&sums, kind, product, &params, rows, columns)?;
        Ok(true)
    }

    /// Products with matrices of `kinds`, which differ in their rates alone.
    pub(super) fn trellis(
        &self,
        x: &Tensor,
        kinds: &[Kind],
        codebook: Codebook,
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        let experts = products[0].0.experts;
        let matrices = self.context.linears.matrices(self.context)?;
        let limits = self.context.gpu().limits();
        let roomy = limits.max_compute_workgroup_storage_size >= TrellisMatmul::WORKGROUP_BYTES;
        let some = (FEW..=Matmul::ROWS).contains(&self.sharing(experts));
        let by_matrices = matrices && roomy && some;
        // Halves end at 65504.
        let plain = self.context.guard.is_plain();
        if plain || !by_matrices && !self.are_many(experts) {
            return self.few_rows(x, kinds, codebook, products);
        }
        for &kind in kinds {
            let Kind::Trellis { bits, .. } = kind else {
                continue;
            };
            for &product in products {
                if !product.0.stored.kinds.contains(&kind) {
                    continue;
                }
                let done = match by_matrices {
                    true => self.some_rows(x, kind, bits, codebook, product)?,
                    false => self.by_tiles(x, kind, product, matrices)?,
                };
                if !done {
                    self.few_rows(x, &[kind], codebook, &[product])?;
                }
            }
        }
        Ok(())
    }

    /// Products straight from the packed words.
    pub(super) fn few_rows(
        &self,
        x: &Tensor,
        kinds: &[Kind],
        codebook: Codebook,
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        let bits = |kind: &Kind| match kind {
            Kind::Trellis { bits, .. } => Some(*bits),
            Kind::Rows { .. } => None,
        };
        let each = kinds.iter().filter_map(bits);
        let add = |rates: Option<Rates>, bits| match rates {
            Some(rates) => Some(rates.and(bits)),
            None => Some(Rates::one(bits)),
        };
        let Some(rates) = each.fold(None, add) else {
            return Ok(());
        };
        let rows = self.rows_at_once(products[0].0.experts);
        self.rows_together(x, kinds, rates, codebook, rows, products)
    }

    /// Whether activations are multiplied exactly, whatever it takes.
    fn exact(&self) -> bool {
        self.context.gpu().options().exact || self.context.guard.is_plain()
    }

    /// The most teams that a workgroup may have.
    fn most_teams(&self) -> usize {
        let limits = self.context.gpu().limits();
        // Sixteen with a block of signs each take 43,200 bytes, if they exchange through workgroup memory too.
        let roomy = limits.max_compute_invocations_per_workgroup >= 512
            && limits.max_compute_workgroup_storage_size >= 48 << 10;
        if roomy { 16 } else { 8 }
    }

    /// Products with a row at a time.
    fn one_row(
        &self,
        x: &Tensor,
        kinds: &[Kind],
        rates: Rates,
        codebook: Codebook,
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        let gpu = self.context.gpu();
        let groups = self.groups(1, products[0].0.experts);
        let blocks = products[0].0.shape.in_features.div_ceil(BLOCK);
        let mut params = self.params(kinds, products, BLOCK);
        let columns = params.ends[3] as usize;
        let activations = match codebook {
            _ if self.exact() => Activations::Exact,
            Codebook::Mul1 => Activations::Sign,
            _ if gpu.has_f16() => Activations::Half,
            _ => Activations::Exact,
        };
        let units = columns * groups;
        let halves = activations == Activations::Half;
        let cut = RowCut::new(units, blocks, self.most_teams(), halves);
        params.blocks = blocks as u32;
        params.per_split = cut.per_split as u32;
        params.splits = cut.splits as u32;
        params.pairs = 4 / cut.parts as u32;
        let kernel = TrellisGemv {
            rates,
            codebook,
            activations,
            teams: cut.teams,
            parts: cut.parts,
            outputs: products.len(),
            route: self.route,
            residual: self.residual.is_some(),
            meets: cut.splits > 1,
            once: cut.per_split <= cut.teams / cut.parts,
            exchange: self.exchange(),
        };
        let grid = [columns, cut.splits, groups];
        let work = self.work(kinds, products, x);
        let more = self.meeting(kernel.splits(), units, cut.splits, 1)?;
        let more: Vec<&Slice> = more.iter().collect();
        let kernel = Kernel::TrellisGemv(kernel);
        self.record(kernel, &[&x.slice()], products, &more, &params, grid, work)
    }

    /// Products with `rows` rows at a time, or fewer, if sums do not fit a binding.
    fn rows_together(
        &self,
        x: &Tensor,
        kinds: &[Kind],
        rates: Rates,
        codebook: Codebook,
        rows: usize,
        products: &[Product<'_>],
    ) -> Result<(), Error> {
        if rows == 1 {
            return self.one_row(x, kinds, rates, codebook, products);
        }
        let gpu = self.context.gpu();
        let groups = self.groups(rows, products[0].0.experts);
        let blocks = products[0].0.shape.in_features.div_ceil(BLOCK);
        let mut params = self.params(kinds, products, BLOCK);
        let columns = params.ends[3] as usize;
        let halves = gpu.has_f16() && !self.exact();
        let activations = match halves {
            true => Activations::Half,
            false => Activations::Exact,
        };
        // Asked where it matters: the first time, asking waits for the device.
        let linears = &self.context.linears;
        let tiny = halves && codebook == Codebook::Mul1 && linears.tiny_halves(self.context)?;
        let uncut = TrellisFew {
            rates,
            codebook,
            activations,
            rows,
            teams: 1,
            blocks: 1,
            outputs: products.len(),
            route: self.route,
            residual: self.residual.is_some(),
            splits: Splits::None,
            straddles: false,
            tiny,
            exchange: self.exchange(),
        };
        let units = columns * groups;
        let cut = FewCut::new(
            units,
            blocks,
            &uncut,
            self.most_teams(),
            self.route == Route::All,
            gpu.limits().max_compute_workgroup_storage_size as usize,
        );
        // Where little memory makes for many parts of many units, fewer rows make for fewer and longer ones.
        let sums = 4 * (units * cut.splits * rows * BLOCK) as u64;
        if cut.splits > 1 && sums > gpu.max_binding() {
            return self.rows_together(x, kinds, rates, codebook, rows / 2, products);
        }
        params.blocks = blocks as u32;
        params.per_split = cut.per_split as u32;
        params.splits = cut.splits as u32;
        params.all = (units * blocks) as u32;
        params.one_over =
            [blocks, columns, cut.per_split].map(|n| (1.0 - 2f32.powi(-22)) / n as f32);
        let splits = match cut.splits {
            1 => Splits::None,
            // Exchanging is soon done where it is little.
            many if rows == 2 || rows == 4 && many <= 3 => Splits::Meet,
            _ => Splits::Count,
        };
        let kernel = Kernel::TrellisFew(TrellisFew {
            teams: cut.teams,
            blocks: cut.per_split,
            splits,
            straddles: cut.straddles,
            ..uncut
        });
        let grid = match cut.straddles {
            true => {
                let ranges = (units * blocks).div_ceil(cut.per_split);
                let across = ranges.min(1 << 15);
                [across, ranges.div_ceil(across), 1]
            }
            false => [columns, cut.splits, groups],
        };
        let work = self.work(kinds, products, x);
        let more = self.meeting(splits, units, cut.splits, rows)?;
        let more: Vec<&Slice> = more.iter().collect();
        self.record(kernel, &[&x.slice()], products, &more, &params, grid, work)
    }

    /// What it takes for the sums of `rows` rows of `units` units to come together, of each from `most` workgroups at the most.
    fn meeting(
        &self,
        splits: Splits,
        units: usize,
        most: usize,
        rows: usize,
    ) -> Result<Vec<Slice>, Error> {
        let (gpu, linears) = (self.context.gpu(), &self.context.linears);
        Ok(match splits {
            Splits::None => vec![],
            Splits::Meet => vec![linears.meetings(gpu, units * (most - 1) * rows * BLOCK)?],
            Splits::Count => {
                let partials = self.context.tensor(units * most, rows * BLOCK)?;
                vec![partials.slice(), linears.counters(gpu, units)?]
            }
        })
    }
}
