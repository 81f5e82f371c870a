//! Products with trellis-coded matrices: which kernels, and how their work is cut.

use treillage_backend::Error;
use treillage_shaders::matmul::Matmul;
use treillage_shaders::trellis::{
    Activations, Codebook, Rates, Splits, TrellisGemv, TrellisMatmul,
};

use super::dispatch::{BUSY, Job, Product};
use super::kernels::Kernel;
use super::matmul::{BLOCK, split};
use super::store::Kind;
use crate::{Slice, Tensor};

/// Rows that share a matrix from which on matrix units pay.
const FEW: usize = 9;

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
    /// For `units` workgroups of `rows` rows, without splits, over `blocks` input blocks; activations are `halves` or else f32.
    fn new(units: usize, blocks: usize, rows: usize, most_teams: usize, halves: bool) -> Self {
        let busy = units >= BUSY;
        let mut cut = Self {
            // A few workgroups of many rows are better cut to more of them than to more teams.
            teams: if busy || rows == 1 { most_teams } else { 8 },
            parts: 1,
            per_split: blocks,
            splits: 1,
        };
        let few_parts = halves && most_teams > 8;
        cut.parts = match rows {
            1 | 2 => 1,
            4 if busy && few_parts => 1,
            4 => 2,
            8 if few_parts => 2,
            _ => 4,
        };
        if rows > 8 {
            cut.teams = 4;
        }
        // Of many workgroups, several small ones share a processor, and the last leave less of it idle. With halves, which take few
        // registers, large ones do too, and are kept where each of their teams has one block.
        if rows == 1 && units >= 6 * BUSY && (!halves || blocks > most_teams) {
            cut.teams = 8;
        }
        // Eight rows take registers: of two workgroups of half the lanes, none with another's block, each has more of them.
        if rows == 8 && few_parts && (BUSY..3 * BUSY).contains(&units) {
            (cut.teams, cut.parts) = (8, 1);
            (cut.per_split, cut.splits) = split(units, blocks, 3 * BUSY);
        }
        if !busy {
            let wanted = if rows == 1 { 2 * BUSY } else { 4 * BUSY };
            (cut.per_split, cut.splits) = split(units, blocks, wanted);
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
        let gpu = self.context.gpu();
        let experts = products[0].0.experts;
        let rows = self.rows_at_once(experts);
        let groups = self.groups(rows, experts);
        let blocks = products[0].0.shape.in_features.div_ceil(BLOCK);
        let mut params = self.params(kinds, products, BLOCK);
        let columns = params.ends[3] as usize;
        let limits = gpu.limits();
        let roomy = limits.max_compute_invocations_per_workgroup >= 512
            && limits.max_compute_workgroup_storage_size >= 40 << 10;
        let exact = gpu.options().exact || self.context.guard.is_plain();
        let sign = codebook == Codebook::Mul1 && rows == 1 && !exact;
        let halves = !sign && !exact && gpu.has_f16();
        let units = columns * groups;
        let cut = Cut::new(units, blocks, rows, if roomy { 16 } else { 8 }, halves);
        params.blocks = blocks as u32;
        params.per_split = cut.per_split as u32;
        params.splits = cut.splits as u32;
        params.pairs = 4 / cut.parts as u32;
        let splits = match (cut.splits, rows) {
            (1, _) => Splits::None,
            (_, 1 | 2) => Splits::Meet,
            _ => Splits::Count,
        };
        let kernel = Kernel::Trellis(TrellisGemv {
            rates,
            codebook,
            activations: match (sign, halves) {
                (true, _) => Activations::Sign,
                (_, true) => Activations::Half,
                _ => Activations::Exact,
            },
            rows,
            teams: cut.teams,
            parts: cut.parts,
            outputs: products.len(),
            route: self.route,
            residual: self.residual.is_some(),
            splits,
            once: cut.per_split <= cut.teams / cut.parts,
            exchange: self.exchange(),
        });
        let grid = [columns, cut.splits, groups];
        let work = self.work(kinds, products, x);
        let linears = &self.context.linears;
        // Lent until its use is recorded.
        let partials;
        let more = match splits {
            Splits::None => vec![],
            Splits::Meet => {
                vec![linears.meetings(gpu, units * (cut.splits - 1) * rows * BLOCK)?]
            }
            Splits::Count => {
                partials = self.context.tensor(units * cut.splits, rows * BLOCK)?;
                vec![partials.slice(), linears.counters(gpu)?]
            }
        };
        let more: Vec<&Slice> = more.iter().collect();
        self.record(kernel, &[&x.slice()], products, &more, &params, grid, work)
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::Kernels;
    use super::*;

    #[test]
    fn cuts_are_legal() {
        for (most, halves) in [(8, false), (8, true), (16, false), (16, true)] {
            for rows in [1, 2, 4, 8, 16] {
                for blocks in 1..40 {
                    for units in [1, 2, 3, 16, 40, 63, 64, 112, 191, 1000] {
                        let cut = Cut::new(units, blocks, rows, most, halves);
                        let what = format!("{units} {blocks} {rows} {most} {halves}: {cut:?}");
                        assert!([1, 2, 4].contains(&cut.parts), "{what}");
                        assert!(cut.teams.is_multiple_of(cut.parts), "{what}");
                        assert!(cut.per_split * cut.splits >= blocks, "{what}");
                        assert!(cut.per_split * (cut.splits - 1) < blocks, "{what}");
                        assert!(cut.splits == 1 || units <= Kernels::COUNTERS, "{what}");
                        // 16 KiB of workgroup memory for activations at the most, 24 as signs and bytes, and half of it where a
                        // device has no more than that in all.
                        let bytes = if halves && rows > 1 { 8 } else { 16 };
                        let used = 32 * bytes * rows * cut.teams / cut.parts;
                        assert!(used <= 1024 * most, "{what}");
                    }
                }
            }
        }
    }
}
