//! Products with trellis-coded matrices: which kernels, and how their work is cut.

use treillage_backend::Error;
use treillage_shaders::trellis::{
    Activations, Codebook, TrellisDecode, TrellisFinish, TrellisGemm, TrellisGemv, TrellisMatmul,
    TrellisRotate,
};

use super::Linear;
use super::dispatch::{Job, MAX_ROWS, Product};
use super::kernels::{Kernel, Kernels};
use super::store::Kind;
use crate::{Tensor, Work};

/// Inputs and outputs of a Hadamard block.
const BLOCK: usize = 128;
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
    /// `x` as matrices that are decoded to f16 want it, with room for `more` rows to be read beyond those that there are.
    fn rotated(
        &self,
        x: &Tensor,
        kind: Kind,
        linear: &Linear,
        more: usize,
    ) -> Result<Tensor, Error> {
        const ROWS: usize = 16;
        let blocks = linear.shape.in_features.div_ceil(BLOCK);
        // Two halves a word.
        let rotated = self.context.tensor(self.rows + more, blocks * BLOCK / 2)?;
        let product = [(linear, &rotated)];
        let mut params = self.params(kind, &product, BLOCK);
        params.blocks = blocks as u32;
        params.ends = [blocks as u32; 4];
        let kernel = Kernel::Rotate(TrellisRotate {
            rows: ROWS,
            teams: 8,
            route: self.route,
            exchange: self.exchange(),
        });
        let grid = [blocks, 1, self.groups(ROWS, linear.experts)];
        let bytes = x.slice().size() + rotated.slice().size();
        let work = Work {
            bytes,
            operations: 0,
        };
        self.record(kernel, &[&x.slice()], &product, &[], &params, grid, work)?;
        Ok(rotated)
    }

    /// Products of many rows, a linear at a time: each wants its own rotated input.
    fn many_rows(
        &self,
        x: &Tensor,
        kind: Kind,
        bits: usize,
        codebook: Codebook,
        product: Product<'_>,
    ) -> Result<(), Error> {
        const ROWS: usize = 16;
        let (linear, _) = product;
        let rotated = self.rotated(x, kind, linear, ROWS)?;
        let blocks = linear.shape.in_features.div_ceil(BLOCK);
        let groups = self.groups(ROWS, linear.experts);
        let mut params = self.params(kind, &[product], BLOCK);
        let columns = params.ends[3] as usize;
        let (per_split, splits) = split(columns * groups, blocks, 4 * BUSY);
        params.blocks = blocks as u32;
        params.per_split = per_split as u32;
        params.splits = splits as u32;
        let kernel = Kernel::Gemm(TrellisGemm {
            bits,
            codebook,
            rows: ROWS,
            route: self.route,
            residual: self.residual.is_some(),
            split: splits > 1,
            exchange: self.exchange(),
        });
        let grid = [columns, splits, groups];
        let work = self.work(kind, &[product], &rotated);
        let x = rotated.slice();
        if splits == 1 {
            return self.record(kernel, &[&x], &[product], &[], &params, grid, work);
        }
        let partials = self
            .context
            .tensor(columns * groups * splits, ROWS * BLOCK)?;
        let counters = self.context.linears.counters(self.context.gpu())?;
        let more = [&partials.slice(), &counters];
        self.record(kernel, &[&x], &[product], &more, &params, grid, work)
    }

    /// Products of many rows with matrix units: matrices are decoded to f16, all of a stack. Gives false, having done
    /// nothing, where they take more than one buffer.
    fn by_matrices(
        &self,
        x: &Tensor,
        kind: Kind,
        bits: usize,
        codebook: Codebook,
        product: Product<'_>,
        matrices: bool,
    ) -> Result<bool, Error> {
        const TEAMS: usize = 4;
        const ROWS: usize = TrellisMatmul::ROWS;
        let context = self.context;
        let (linear, _) = product;
        let (experts, shape) = (linear.experts, linear.shape);
        let blocks = shape.in_features.div_ceil(BLOCK);
        let columns = shape.out_features.div_ceil(BLOCK);
        let groups = self.groups(ROWS, experts);
        let (per_split, splits) = split(columns * groups, blocks, 4 * BUSY);
        let decoded_bytes = 2 * (experts * columns * blocks * BLOCK * BLOCK) as u64;
        let sums_bytes = 4 * (splits * groups * ROWS * columns * BLOCK) as u64;
        if decoded_bytes.max(sums_bytes) > context.gpu().max_binding() {
            return Ok(false);
        }
        let decoded = context.tensor(experts * columns * BLOCK, blocks * BLOCK / 2)?;
        let sums = context.tensor(splits * groups * ROWS, columns * BLOCK)?;
        let rotated = self.rotated(x, kind, linear, ROWS)?;
        let mut params = self.params(kind, &[product], BLOCK);
        params.blocks = blocks as u32;
        params.per_split = per_split as u32;
        params.splits = splits as u32;

        let kernel = Kernel::Decode(TrellisDecode {
            bits,
            codebook,
            teams: TEAMS,
            route: self.route,
        });
        let to = [(linear, &decoded)];
        let grid = [columns, (4 * blocks).div_ceil(TEAMS), experts];
        let bytes = decoded_bytes + experts as u64 * kind.bytes(shape);
        let work = Work {
            bytes,
            operations: 0,
        };
        self.record(kernel, &[], &to, &[], &params, grid, work)?;

        let kernel = Kernel::Matmul(TrellisMatmul {
            route: self.route,
            matrices,
        });
        let to = [(linear, &sums)];
        let grid = [columns, splits, groups];
        let work = Work {
            bytes: decoded_bytes + rotated.slice().size() + sums_bytes,
            operations: 2 * (shape.weights() * self.rows) as u64,
        };
        let (x, weights) = (rotated.slice(), decoded.slice());
        self.record(kernel, &[&x, &weights], &to, &[], &params, grid, work)?;

        let kernel = Kernel::Finish(TrellisFinish {
            route: self.route,
            residual: self.residual.is_some(),
            teams: 2 * TEAMS,
            exchange: self.exchange(),
        });
        let grid = [columns, 1, groups];
        let bytes = sums_bytes + product.1.slice().size();
        let work = Work {
            bytes,
            operations: 0,
        };
        self.record(
            kernel,
            &[&sums.slice()],
            &[product],
            &[],
            &params,
            grid,
            work,
        )?;
        Ok(true)
    }

    pub(super) fn trellis(
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
        // An input that is written out rotated, in half precision, is worth it from here on.
        if self.sharing(experts) > MAX_ROWS && gpu.has_f16() {
            let matrices = self.context.linears.matrices(self.context)?;
            for &product in products {
                let done =
                    matrices && self.by_matrices(x, kind, bits, codebook, product, matrices)?;
                if !done {
                    self.many_rows(x, kind, bits, codebook, product)?;
                }
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

    /// The way with matrix units, its products made by lanes, against the one without.
    #[test]
    fn decoded_matrices_multiply_alike() {
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
        let gpu = crate::Gpu::open(adapter, crate::Options::default()).unwrap();
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
                };
                let outputs = [(), ()].map(|()| context.tensor(rows, shape.out_features).unwrap());
                job.many_rows(&x, kind, bits, codebook, (&linear, &outputs[0]))
                    .unwrap();
                let product = (&linear, &outputs[1]);
                assert!(
                    job.by_matrices(&x, kind, bits, codebook, product, false)
                        .unwrap()
                );
                let [a, b] = outputs.map(|out| context.read(&out).unwrap());
                let power: f32 = a.iter().map(|v| v * v).sum();
                let error: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
                assert!(
                    power > 1.0 && error < 1e-10 * power,
                    "{route:?}: {error} of {power}"
                );
            }
        }
    }
}
