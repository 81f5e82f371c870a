//! Products of many rows through tiles of half precision: rows and matrices are made tiles of, multiplied, and sums made outputs of.
//! Formats differ in how their matrices are decoded, and in the basis in which they are multiplied.

use std::ops::Range;

use treillage_backend::{Error, LinearShape};
use treillage_shaders::matmul::{Basis, Matmul, MatmulInputs, MatmulOutputs};
use treillage_shaders::rows::RowsDecode;
use treillage_shaders::trellis::TrellisDecode;

use super::Linear;
use super::dispatch::{BUSY, Job, Params, Product};
use super::kernels::Kernel;
use super::store::{Kind, chunks};
use crate::{Tensor, Work};

/// Inputs, and outputs, of a block: a Hadamard block of trellis codes.
pub(super) const BLOCK: usize = 128;
/// Teams of 32 lanes of a workgroup that makes tiles of rows, or outputs of sums.
const TEAMS: usize = 8;
/// Bytes of matrices that are decoded at a time, if they are more than one column block.
const DECODED_BYTES: u64 = 256 << 20;

/// Input blocks of a split and the number of splits that make about `wanted` workgroups of `units`.
pub(super) fn split(units: usize, blocks: usize, wanted: usize) -> (usize, usize) {
    if units == 0 || units >= wanted {
        return (blocks, 1);
    }
    let splits = wanted.div_ceil(units).min(blocks.div_ceil(2)).max(1);
    let per_split = blocks.div_ceil(splits);
    (per_split, blocks.div_ceil(per_split))
}

impl Job<'_> {
    /// In which basis matrices of `kind` are multiplied.
    fn basis(&self, kind: Kind) -> Basis {
        match kind {
            Kind::Trellis { .. } => Basis::Rotated(self.exchange()),
            Kind::Rows { .. } => Basis::Plain,
        }
    }

    /// `x` as products in tiles want it for `linear`, in groups of `rows` rows.
    pub(super) fn tiled(
        &self,
        x: &Tensor,
        kind: Kind,
        linear: &Linear,
        rows: usize,
    ) -> Result<Tensor, Error> {
        let blocks = linear.shape.in_features.div_ceil(BLOCK);
        let groups = self.groups(rows, linear.experts);
        // Two halves a word.
        let tiled = self.context.tensor(groups * rows, blocks * BLOCK / 2)?;
        let product = [(linear, &tiled)];
        let mut params = self.params(&[kind], &product, BLOCK);
        params.blocks = blocks as u32;
        params.ends = [blocks as u32; 4];
        let kernel = Kernel::Inputs(MatmulInputs {
            rows,
            teams: TEAMS,
            route: self.route,
            basis: self.basis(kind),
        });
        let work = Work {
            bytes: x.slice().size() + tiled.slice().size(),
            operations: 0,
        };
        let grid = [blocks, 1, groups];
        self.record(kernel, &[&x.slice()], &product, &[], &params, grid, work)?;
        Ok(tiled)
    }

    /// The product of many rows with one linear: its matrices are decoded to f16, all of a stack, some column blocks at a time. Gives
    /// false, having done nothing, where not even one column block fits a binding.
    pub(super) fn by_tiles(
        &self,
        x: &Tensor,
        kind: Kind,
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
        let tiled = self.tiled(x, kind, linear, Matmul::ROWS)?;
        for first in (0..columns).step_by(at_once) {
            let some = first..(first + at_once).min(columns);
            self.some_columns(&tiled, kind, product, matrices, some)?;
        }
        Ok(true)
    }

    fn some_columns(
        &self,
        tiled: &Tensor,
        kind: Kind,
        product: Product<'_>,
        matrices: bool,
        columns: Range<usize>,
    ) -> Result<(), Error> {
        let (context, route) = (self.context, self.route);
        let (linear, _) = product;
        let blocks = linear.shape.in_features.div_ceil(BLOCK);
        let groups = self.groups(Matmul::ROWS, linear.experts);
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
        let decoded = self.decoded(kind, linear, &params, columns)?;

        let sums = context.tensor(splits * groups * Matmul::ROWS, columns * BLOCK)?;
        let kernel = Kernel::Matmul(Matmul { route, matrices });
        let to = [(linear, &sums)];
        let grid = [columns, splits, groups];
        let work = Work {
            bytes: decoded.slice().size() + tiled.slice().size() + sums_bytes(splits),
            operations: 2 * (self.rows * blocks * BLOCK * columns * BLOCK) as u64,
        };
        let (x, weights) = (tiled.slice(), decoded.slice());
        self.record(kernel, &[&x, &weights], &to, &[], &params, grid, work)?;

        self.finish(&sums, kind, product, &params, Matmul::ROWS, columns)
    }

    /// `columns` column blocks of all of a linear's matrices in tiles, for a product with these scalars.
    fn decoded(
        &self,
        kind: Kind,
        linear: &Linear,
        params: &Params,
        columns: usize,
    ) -> Result<Tensor, Error> {
        const TEAMS: usize = 4;
        let (route, experts) = (self.route, linear.experts);
        let mut params = *params;
        let blocks = params.blocks as usize;
        let decoded = self
            .context
            .tensor(experts * columns * BLOCK, blocks * BLOCK / 2)?;
        let (kernel, groups) = match kind {
            Kind::Trellis { bits, codebook } => {
                let kernel = TrellisDecode {
                    bits,
                    codebook,
                    teams: TEAMS,
                    route,
                };
                (Kernel::TrellisDecode(kernel), (4 * blocks).div_ceil(TEAMS))
            }
            Kind::Rows { format, .. } => {
                params.blocks = chunks(linear.shape.in_features) as u32;
                (Kernel::RowsDecode(RowsDecode { format, route }), 2 * blocks)
            }
        };
        let read = kind.bytes(LinearShape {
            in_features: blocks * BLOCK,
            out_features: columns * BLOCK,
        });
        let work = Work {
            bytes: decoded.slice().size() + experts as u64 * read,
            operations: 0,
        };
        let to = [(linear, &decoded)];
        let grid = [columns, groups, experts];
        self.record(kernel, &[], &to, &[], &params, grid, work)?;
        Ok(decoded)
    }

    /// Outputs of `columns` column blocks from `sums` of groups of `rows` rows, with the scalars that these were made with.
    pub(super) fn finish(
        &self,
        sums: &Tensor,
        kind: Kind,
        product: Product<'_>,
        params: &Params,
        rows: usize,
        columns: usize,
    ) -> Result<(), Error> {
        let kernel = Kernel::Outputs(MatmulOutputs {
            rows,
            teams: TEAMS,
            route: self.route,
            residual: self.residual.is_some(),
            basis: self.basis(kind),
        });
        let grid = [columns, 1, self.groups(rows, product.0.experts)];
        let sums = sums.slice();
        let work = Work {
            bytes: sums.size() + 4 * (self.rows * columns * BLOCK) as u64,
            operations: 0,
        };
        self.record(kernel, &[&sums], &[product], &[], params, grid, work)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use half::f16;
    use treillage_backend::LinearWeights;
    use treillage_gptq::{Element, GroupedLinear, IntBits, Parts, Rotation, Scales};
    use treillage_shaders::linear::Route;
    use treillage_trellis::{Codebook, PackedLinear, PackedParts};

    use super::*;
    use crate::{Adapters, Context, Gpu, Options};

    /// Inputs are neither whole blocks nor whole steps of 16, outputs not whole blocks.
    const SHAPE: LinearShape = LinearShape {
        in_features: 312,
        out_features: 200,
    };

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            self.0 >> 33
        }

        /// About -1 to 1.
        fn values(&mut self, count: usize) -> Vec<f32> {
            let values = (0..count).map(|_| self.next() as f32 / 1e9 - 1.0);
            values.collect()
        }

        fn halves(&mut self, count: usize) -> Vec<f16> {
            self.values(count).into_iter().map(f16::from_f32).collect()
        }

        fn trellis(&mut self, bits: usize, codebook: Codebook) -> LinearWeights {
            let words: Vec<u16> = (0..24 * 16 * 16 * bits)
                .map(|_| self.next() as u16)
                .collect();
            let packed = PackedLinear::new(PackedParts {
                words: Arc::new(words),
                shape: [24, 16, 16 * bits],
                codebook,
                suh: self.halves(384),
                svh: self.halves(256),
                bias: Some(self.halves(256)),
            });
            LinearWeights::Trellis(Arc::new(packed.unwrap()))
        }

        fn grouped(&mut self, element: Element, group: usize, zeros: bool) -> LinearWeights {
            let groups = SHAPE.weights() / group;
            let codes = (0..SHAPE.weights() * element.code_bits() / 8)
                .map(|_| self.next() as u8)
                .collect();
            let scales = match element {
                Element::E2m1 => Scales::E4m3 {
                    bytes: (0..groups).map(|_| self.next() as u8 % 127).collect(),
                    global: 1e5,
                },
                Element::Int(_) => Scales::F16(self.halves(groups)),
            };
            let parts = Parts {
                in_features: SHAPE.in_features,
                out_features: SHAPE.out_features,
                element,
                group,
                codes,
                scales,
                zeros: zeros.then(|| (0..groups).map(|_| self.next() as u8 % 16).collect()),
                order: None,
                rotation: Rotation::None,
                bias: Some(self.values(SHAPE.out_features)),
            };
            LinearWeights::Grouped(Arc::new(GroupedLinear::new(parts).unwrap()))
        }
    }

    /// Many rows by matrices that are decoded once, against rows a few at a time.
    #[test]
    fn many_rows_are_as_few() {
        let adapters = Adapters::find();
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
        let options = Options {
            exact: true,
            ..Options::default()
        };
        let gpu = Gpu::open(adapter, options).unwrap();
        let context = Context::new(&gpu);
        let mut random = Random(1);
        let stacks: [[LinearWeights; 3]; 5] = [
            std::array::from_fn(|_| random.trellis(3, Codebook::Mul1)),
            std::array::from_fn(|_| random.trellis(5, Codebook::Mcg)),
            std::array::from_fn(|_| random.grouped(Element::Int(IntBits::Four), 104, true)),
            std::array::from_fn(|_| random.grouped(Element::Int(IntBits::Eight), 24, false)),
            // The factor of all scales does not fit halves.
            std::array::from_fn(|_| random.grouped(Element::E2m1, 24, false)),
        ];
        let rows = 90;
        let mut tensor = |width: usize| {
            let tensor = context.tensor(rows, width).unwrap();
            let values = random.values(rows * width);
            context
                .recorder
                .write(&tensor.slice(), bytemuck::cast_slice(&values));
            tensor
        };
        let x = tensor(SHAPE.in_features);
        let residual = tensor(SHAPE.out_features);
        let offsets = context.bring(&[0u32, 70, 70, rows as u32]).unwrap().slice();
        for stack in stacks {
            let linear = Linear::stack(&context, &stack, SHAPE).unwrap();
            let kind = linear.stored.kinds[0];
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
                let outputs = [(), ()].map(|()| context.tensor(rows, SHAPE.out_features).unwrap());
                let few = [(&linear, &outputs[0])];
                // On the plain path, whose kernels are soon compiled where a CPU is the device.
                context.guard.path.ask(true);
                match kind {
                    Kind::Trellis { codebook, .. } => job.few_rows(&x, &[kind], codebook, &few),
                    Kind::Rows { format, .. } => job.few_at_a_time(&x, kind, format, &few),
                }
                .unwrap();
                context.guard.path.ask(false);
                let many = (&linear, &outputs[1]);
                assert!(job.by_tiles(&x, kind, many, false).unwrap());
                let [a, b] = outputs.map(|out| context.read(&out).unwrap());
                let power: f32 = a.iter().map(|v| v * v).sum();
                let error: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
                assert!(
                    power > 1.0 && error < 3e-7 * power,
                    "{kind:?}, {route:?}: {error} of {power}"
                );
            }
        }
    }
}
