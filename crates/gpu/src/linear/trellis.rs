//! Products with trellis-coded matrices: which kernels, and how their work is cut.

use std::ops::Range;

use treillage_backend::Error;
use treillage_shaders::matmul::Matmul;
use treillage_shaders::trellis::{
    Activations, Codebook, Rates, TrellisDecode, TrellisFinish, TrellisGemv, TrellisMatmul,
    TrellisRotate,
};

use super::Linear;
use super::dispatch::{Job, MAX_ROWS, Params, Product};
use super::kernels::{Kernel, Kernels};
use super::store::Kind;
use crate::{Tensor, Work};

/// Inputs and outputs of a Hadamard block.
const BLOCK: usize = 128;
/// Rows that share a matrix from which on matrix units pay.
const FEW: usize = 9;
/// Workgroups that keep a large device busy; fewer are cut along the input axis.
const BUSY: usize = 64;

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

/// Input blocks of a split and the number of splits that make about `wanted` workgroups of `units`.
fn split(units: usize, blocks: usize, wanted: usize) -> (usize, usize) {
    if units == 0 || units >= wanted || units > Kernels::COUNTERS {
        return (blocks, 1);
    }
    let splits = wanted.div_ceil(units).min(blocks.div_ceil(2)).max(1);
    let per_split = blocks.div_ceil(splits);
    (per_split, blocks.div_ceil(per_split))
}

/// Bytes of matrices that are decoded at a time, if they are more than one column block.
const DECODED_BYTES: u64 = 256 << 20;

impl Job<'_> {
    /// `x` as products in tiles want it for `linear`, in groups of `rows` rows.
    fn rotated(
        &self,
        x: &Tensor,
        kind: Kind,
        linear: &Linear,
        rows: usize,
    ) -> Result<Tensor, Error> {
        let blocks = linear.shape.in_features.div_ceil(BLOCK);
        let groups = self.groups(rows, linear.experts);
        // Two halves a word.
        let rotated = self.context.tensor(groups * rows, blocks * BLOCK / 2)?;
        let product = [(linear, &rotated)];
        let mut params = self.params(&[kind], &product, BLOCK);
        params.blocks = blocks as u32;
        params.ends = [blocks as u32; 4];
        let kernel = Kernel::Rotate(TrellisRotate {
            rows,
            teams: 8,
            route: self.route,
            exchange: self.exchange(),
        });
        let work = Work {
            bytes: x.slice().size() + rotated.slice().size(),
            operations: 0,
        };
        let grid = [blocks, 1, groups];
        self.record(kernel, &[&x.slice()], &product, &[], &params, grid, work)?;
        Ok(rotated)
    }

    /// The product of many rows with one linear: its matrices are decoded to f16, all of a stack, some column blocks at a time. Gives
    /// false, having done nothing, where not even one column block fits a binding.
    fn many_rows(
        &self,
        x: &Tensor,
        kind: Kind,
        bits: usize,
        codebook: Codebook,
        product: Product<'_>,
        matrices: bool,
    ) -> Result<bool, Error> {
        let (linear, _) = product;
        let blocks = linear.shape.in_features.div_ceil(BLOCK);
        let columns = linear.shape.out_features.div_ceil(BLOCK);
        let groups = self.groups(Matmul::ROWS, linear.experts);
        let decoded = 2 * (linear.experts * blocks * BLOCK * BLOCK) as u64;
        let sums = 4 * (groups * Matmul::ROWS * BLOCK) as u64;
        let most = self.context.gpu().max_binding();
        if decoded.max(sums) > most {
            return Ok(false);
        }
        let fit = (DECODED_BYTES / decoded).max(1).min(most / sums) as usize;
        // As even as they come.
        let at_once = columns.div_ceil(columns.div_ceil(fit));
        let rotated = self.rotated(x, kind, linear, Matmul::ROWS)?;
        for first in (0..columns).step_by(at_once) {
            let some = first..(first + at_once).min(columns);
            self.some_columns(&rotated, kind, bits, codebook, product, matrices, some)?;
        }
        Ok(true)
    }

    fn some_columns(
        &self,
        rotated: &Tensor,
        kind: Kind,
        bits: usize,
        codebook: Codebook,
        product: Product<'_>,
        matrices: bool,
        columns: Range<usize>,
    ) -> Result<(), Error> {
        const TEAMS: usize = 4;
        let (context, route) = (self.context, self.route);
        let (linear, _) = product;
        let experts = linear.experts;
        let blocks = linear.shape.in_features.div_ceil(BLOCK);
        let groups = self.groups(Matmul::ROWS, experts);
        let mut params = self.params(&[kind], &[product], BLOCK);
        params.first = columns.start as u32;
        let columns = columns.len();
        let (mut per_split, mut splits) = split(columns * groups, blocks, 4 * BUSY);
        let sums_bytes =
            |splits: usize| 4 * (splits * groups * Matmul::ROWS * columns * BLOCK) as u64;
        if sums_bytes(splits) > context.gpu().max_binding() {
            (per_split, splits) = (blocks, 1);
        }
        params.blocks = blocks as u32;
        params.per_split = per_split as u32;
        params.splits = splits as u32;

        let decoded = context.tensor(experts * columns * BLOCK, blocks * BLOCK / 2)?;
        let kernel = Kernel::Decode(TrellisDecode {
            bits,
            codebook,
            teams: TEAMS,
            route,
        });
        let to = [(linear, &decoded)];
        let grid = [columns, (4 * blocks).div_ceil(TEAMS), experts];
        let read = (experts * columns * blocks * BLOCK * BLOCK * bits / 8) as u64;
        let work = Work {
            bytes: decoded.slice().size() + read,
            operations: 0,
        };
        self.record(kernel, &[], &to, &[], &params, grid, work)?;

        let sums = context.tensor(splits * groups * Matmul::ROWS, columns * BLOCK)?;
        let kernel = Kernel::Matmul(Matmul { route, matrices });
        let to = [(linear, &sums)];
        let grid = [columns, splits, groups];
        let work = Work {
            bytes: decoded.slice().size() + rotated.slice().size() + sums_bytes(splits),
            operations: 2 * (self.rows * blocks * BLOCK * columns * BLOCK) as u64,
        };
        let (x, weights) = (rotated.slice(), decoded.slice());
        self.record(kernel, &[&x, &weights], &to, &[], &params, grid, work)?;

        self.finish(&sums, product, &params, Matmul::ROWS, columns)
    }

    /// Outputs of `columns` column blocks from `sums` of groups of `rows` rows, with the scalars that these were made with.
    fn finish(
        &self,
        sums: &Tensor,
        product: Product<'_>,
        params: &Params,
        rows: usize,
        columns: usize,
    ) -> Result<(), Error> {
        let kernel = Kernel::Finish(TrellisFinish {
            rows,
            route: self.route,
            residual: self.residual.is_some(),
            teams: 8,
            exchange: self.exchange(),
        });
        let grid = [columns, 1, self.groups(rows, product.0.experts)];
        let sums = sums.slice();
        let work = Work {
            bytes: sums.size() + 4 * (self.rows * columns * BLOCK) as u64,
            operations: 0,
        };
        self.record(kernel, &[&sums], &[product], &[], params, grid, work)
    }

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
        let rotated = self.rotated(x, kind, linear, rows)?;
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
        self.finish(&sums, product, &params, rows, columns)?;
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
        // Halves end at 65504.
        let sharing = match self.context.guard.is_plain() {
            true => 1,
            false => self.sharing(experts),
        };
        let by_matrices = matrices && roomy && (FEW..=Matmul::ROWS).contains(&sharing);
        if !by_matrices && sharing <= MAX_ROWS {
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
                    false => self.many_rows(x, kind, bits, codebook, product, matrices)?,
                };
                if !done {
                    self.few_rows(x, &[kind], codebook, &[product])?;
                }
            }
        }
        Ok(())
    }

    /// Products straight from the packed words.
    fn few_rows(
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
        let halves = rows > 1 && !exact && gpu.has_f16();
        let cut = Cut::new(
            columns * groups,
            blocks,
            rows,
            if roomy { 16 } else { 8 },
            halves,
        );
        params.blocks = blocks as u32;
        params.per_split = cut.per_split as u32;
        params.splits = cut.splits as u32;
        params.pairs = 4 / cut.parts as u32;
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
            split: cut.splits > 1,
            exchange: self.exchange(),
        });
        let grid = [columns, cut.splits, groups];
        let work = self.work(kinds, products, x);
        if cut.splits == 1 {
            return self.record(kernel, &[&x.slice()], products, &[], &params, grid, work);
        }
        let partials = self
            .context
            .tensor(columns * groups * cut.splits, rows * BLOCK)?;
        let more = [&partials.slice(), &self.context.linears.counters(gpu)?];
        self.record(kernel, &[&x.slice()], products, &more, &params, grid, work)
    }
}

#[cfg(test)]
mod tests {
    use treillage_backend::LinearShape;
    use treillage_shaders::linear::Route;

    use super::*;
    use crate::Context;

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

    /// Many rows by matrices that are decoded once, against rows a few at a time.
    #[test]
    fn many_rows_are_as_few() {
        use half::f16;
        use std::sync::Arc;
        use treillage_backend::LinearWeights;
        use treillage_trellis::{PackedLinear, PackedParts};

        let adapters = crate::Adapters::find();
        let adapter = match adapters.first() {
            Ok(adapter) => adapter,
            Err(error) => {
                assert!(
                    std::env::var_os("TREILLAGE_REQUIRE_GPU").is_none(),
                    "{error}"
                );
                eprintln!("skipped: {error}");
                return;
            }
        };
        // A few rows are otherwise multiplied in halves.
        let options = crate::Options {
            exact: true,
            ..crate::Options::default()
        };
        let gpu = crate::Gpu::open(adapter, options).unwrap();
        let context = Context::new(&gpu);
        let shape = LinearShape {
            in_features: 300,
            out_features: 200,
        };
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 33
        };
        for (bits, codebook) in [
            (3, treillage_trellis::Codebook::Mul1),
            (5, treillage_trellis::Codebook::Mcg),
        ] {
            let stack: Vec<_> = (0..3)
                .map(|_| {
                    let tiles = [24, 16, 16 * bits];
                    let words: Vec<u16> = (0..24 * 16 * 16 * bits).map(|_| next() as u16).collect();
                    let mut halves = |count: usize| -> Vec<f16> {
                        (0..count)
                            .map(|_| f16::from_f32(next() as f32 / 1e9 - 1.0))
                            .collect()
                    };
                    let packed = PackedLinear::new(PackedParts {
                        words: Arc::new(words),
                        shape: tiles,
                        codebook,
                        suh: halves(384),
                        svh: halves(256),
                        bias: Some(halves(256)),
                    });
                    LinearWeights::Trellis(Arc::new(packed.unwrap()))
                })
                .collect();
            let linear = Linear::stack(&context, &stack, shape).unwrap();
            let kind = linear.stored.kinds[0];
            let Kind::Trellis { bits, codebook } = kind else {
                panic!("{kind:?}");
            };
            let rows = 90;
            let tensor = |width: usize, values: &[f32]| {
                let tensor = context.tensor(rows, width).unwrap();
                context
                    .recorder
                    .write(&tensor.slice(), bytemuck::cast_slice(values));
                tensor
            };
            let mut values = |count: usize| -> Vec<f32> {
                (0..count).map(|_| next() as f32 / 1e9 - 1.0).collect()
            };
            let x = tensor(shape.in_features, &values(rows * shape.in_features));
            let residual = tensor(shape.out_features, &values(rows * shape.out_features));
            let offsets = context.bring(&[0u32, 70, 70, rows as u32]).unwrap().slice();
            for (route, picks, residual) in [
                (Route::All, None, Some(&residual)),
                (Route::Grouped, Some(&offsets), None),
            ] {
                let job = Job {
                    context: &context,
                    route,
                    picks,
                    rows,
                    per_row: 1,
                    residual,
                    up: 0,
                    pick: None,
                };
                let outputs = [(), ()].map(|()| context.tensor(rows, shape.out_features).unwrap());
                job.few_rows(&x, &[kind], codebook, &[(&linear, &outputs[0])])
                    .unwrap();
                let product = (&linear, &outputs[1]);
                assert!(
                    job.many_rows(&x, kind, bits, codebook, product, false)
                        .unwrap()
                );
                let [a, b] = outputs.map(|out| context.read(&out).unwrap());
                let power: f32 = a.iter().map(|v| v * v).sum();
                let error: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
                assert!(
                    power > 1.0 && error < 3e-7 * power,
                    "{route:?}: {error} of {power}"
                );
            }
        }
    }
}
