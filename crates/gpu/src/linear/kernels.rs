//! The kernels of linears, composed and compiled once.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use half::f16;
use treillage_shaders::{
    ComposeError, Specialization,
    linear::{Exchange, Route},
    matmul::{Matmul, MatmulInputs, MatmulOutputs},
    rows::{Arrange, RowsDecode, RowsGemv, RowsMatmul},
    trellis::{TrellisDecode, TrellisFew, TrellisGemv, TrellisMatmul},
};

use super::dispatch::{Params, exchange};
use crate::{Context, Error, Gpu, Pipeline, Slice};

/// A kernel by what it is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    TrellisGemv(TrellisGemv),
    TrellisFew(TrellisFew),
    TrellisDecode(TrellisDecode),
    TrellisMatmul(TrellisMatmul),
    Inputs(MatmulInputs),
    Matmul(Matmul),
    Outputs(MatmulOutputs),
    Rows(RowsGemv),
    RowsDecode(RowsDecode),
    RowsMatmul(RowsMatmul),
    Arrange(Arrange),
    TinyHalves,
}

impl Kernel {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Kernel::TrellisGemv(_) => TrellisGemv::SOURCE,
            Kernel::TrellisFew(_) => TrellisFew::SOURCE,
            Kernel::TrellisDecode(_) => TrellisDecode::SOURCE,
            Kernel::TrellisMatmul(_) => TrellisMatmul::SOURCE,
            Kernel::Inputs(_) => MatmulInputs::SOURCE,
            Kernel::Matmul(_) => Matmul::SOURCE,
            Kernel::Outputs(_) => MatmulOutputs::SOURCE,
            Kernel::Rows(_) => RowsGemv::SOURCE,
            Kernel::RowsDecode(_) => RowsDecode::SOURCE,
            Kernel::RowsMatmul(_) => RowsMatmul::SOURCE,
            Kernel::Arrange(_) => Arrange::SOURCE,
            Kernel::TinyHalves => "linear/tiny_halves",
        }
    }

    fn compose(&self) -> Result<String, ComposeError> {
        let specialization = match self {
            Kernel::TrellisGemv(kernel) => kernel.specialization(),
            Kernel::TrellisFew(kernel) => kernel.specialization(),
            Kernel::TrellisDecode(kernel) => kernel.specialization(),
            Kernel::TrellisMatmul(kernel) => kernel.specialization(),
            Kernel::Inputs(kernel) => kernel.specialization(),
            Kernel::Matmul(kernel) => kernel.specialization(),
            Kernel::Outputs(kernel) => kernel.specialization(),
            Kernel::Rows(kernel) => kernel.specialization(),
            Kernel::RowsDecode(kernel) => kernel.specialization(),
            Kernel::RowsMatmul(kernel) => kernel.specialization(),
            Kernel::Arrange(kernel) => kernel.specialization(),
            Kernel::TinyHalves => Specialization::default(),
        };
        specialization.compose(self.name())
    }
}

/// Those that were used so far, and what they need besides tensors.
#[derive(Debug, Default)]
pub(crate) struct Kernels {
    pipelines: Mutex<HashMap<Kernel, Pipeline>>,
    counters: Mutex<Option<Slice>>,
    meetings: Mutex<Option<Slice>>,
    matrices: OnceLock<bool>,
    tiny_halves: OnceLock<bool>,
}

impl Kernels {
    /// Units of work that there are counters for from the beginning.
    pub(super) const COUNTERS: usize = 1 << 12;

    pub(super) fn get(&self, gpu: &Gpu, kernel: Kernel) -> Result<Pipeline, Error> {
        let mut pipelines = self
            .pipelines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines.get(&kernel) {
            return Ok(pipeline.clone());
        }
        let source = kernel.compose().map_err(|error| Error::Kernel {
            kernel: kernel.name().to_owned(),
            reason: error.to_string(),
        })?;
        let pipeline = gpu.pipeline(&kernel.label(), &source, &[])?;
        pipelines.insert(kernel, pipeline.clone());
        Ok(pipeline)
    }

    /// A zero for each of `units` units of split work, or more. Kernels leave zeros behind.
    pub(crate) fn counters(&self, gpu: &Gpu, units: usize) -> Result<Slice, Error> {
        zeros(&self.counters, gpu, "counters", units.max(Self::COUNTERS))
    }

    /// So many zeros, or more, where sums of workgroups meet. Kernels leave zeros behind.
    pub(super) fn meetings(&self, gpu: &Gpu, count: usize) -> Result<Slice, Error> {
        zeros(&self.meetings, gpu, "meetings", count)
    }

    /// Whether subgroups multiply matrices of 16 × 16 × 16, and multiply them right: wgpu calls them experimental, so each device is
    /// asked once, by a product that lanes make too.
    pub(super) fn matrices(&self, context: &Context) -> Result<bool, Error> {
        if let Some(&right) = self.matrices.get() {
            return Ok(right);
        }
        let gpu = context.gpu();
        let fits = |m: &wgpu::CooperativeMatrixProperties| {
            use wgpu::CooperativeScalarType::{F16, F32};
            (m.m_size, m.n_size, m.k_size) == (16, 16, 16) && (m.ab_type, m.cr_type) == (F16, F32)
        };
        let there = gpu.has_f16()
            && exchange(gpu) == Exchange::Subgroup
            && gpu.cooperative_matrices().iter().any(fits);
        let right = there && {
            let by_lanes = self.probe(context, false)?;
            let by_matrices = self.probe(context, true)?;
            // Small whole numbers: every product and sum is exact.
            by_lanes.iter().any(|v| *v != 0.0) && by_lanes == by_matrices
        };
        Ok(*self.matrices.get_or_init(|| right))
    }

    /// Whether halves below the normal ones are kept, or flushed to zero: no adapter says, so each device is asked once.
    pub(super) fn tiny_halves(&self, context: &Context) -> Result<bool, Error> {
        if let Some(&kept) = self.tiny_halves.get() {
            return Ok(kept);
        }
        let gpu = context.gpu();
        let kept = gpu.has_f16() && !gpu.options().without_tiny_halves && {
            // All that a byte sum can be: every eighth, in either half.
            let sums = |i: u32| [16 * i, 16 * i + 8];
            let x: Vec<u32> = (0..64).map(sums).map(|[a, b]| a | b << 16).collect();
            let out = context.tensor(1, 2 * x.len())?;
            let x = context.bring(&x)?;
            context.recorder.dispatch(
                &self.get(gpu, Kernel::TinyHalves)?,
                &[&x.slice(), &out.slice()],
                &[],
                [1, 1, 1],
            );
            let expected = (0..64).flat_map(sums).map(|sum| sum as f32 / 512.0);
            context.read(&out)?.into_iter().eq(expected)
        };
        Ok(*self.tiny_halves.get_or_init(|| kept))
    }

    /// 64 rows of 256 small whole numbers times a matrix of 256 × 128.
    fn probe(&self, context: &Context, matrices: bool) -> Result<Vec<f32>, Error> {
        // A header of kind 1.
        let weights = context.bring(&[1u32, 0, 0, 0, 0, 0, 0, 0])?;
        let x = context.bring(&tiles(&numbers(ROWS * INPUTS, ROW_SEED), ROWS))?;
        let decoded = context.bring(&tiles(&numbers(OUTPUTS * INPUTS, COLUMN_SEED), OUTPUTS))?;
        let sums = context.tensor(ROWS, OUTPUTS)?;
        let params = Params {
            ends: [1; 4],
            kind: 1,
            mask: u32::MAX,
            rows: ROWS as u32,
            blocks: 2,
            per_split: 2,
            splits: 1,
            ..Params::default()
        };
        let kernel = Kernel::Matmul(Matmul {
            route: Route::All,
            matrices,
        });
        context.recorder.dispatch(
            &self.get(context.gpu(), kernel)?,
            &[
                &weights.slice(),
                &x.slice(),
                &decoded.slice(),
                &sums.slice(),
            ],
            bytemuck::bytes_of(&params),
            [1, 1, 1],
        );
        context.read(&sums)
    }
}

/// At least `count` words of zeros: those that are kept, or else new ones, which are kept from now on.
fn zeros(kept: &Mutex<Option<Slice>>, gpu: &Gpu, name: &str, count: usize) -> Result<Slice, Error> {
    let bytes = 4 * count as u64;
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(slice) = kept.as_ref().filter(|slice| slice.size() >= bytes) {
        return Ok(slice.clone());
    }
    let slice = gpu.buffer(name, bytes.next_power_of_two())?.slice();
    Ok(kept.insert(slice).clone())
}

/// The size of what a device is asked with.
const ROWS: usize = Matmul::ROWS;
const INPUTS: usize = 256;
const OUTPUTS: usize = 128;
const ROW_SEED: usize = 5;
const COLUMN_SEED: usize = 11;

/// Whole numbers from -8 to 8.
fn numbers(count: usize, seed: usize) -> Vec<f16> {
    (0..count)
        .map(|i| f16::from_f32(((i * i + seed * i) % 17) as f32 - 8.0))
        .collect()
}

/// `[count, INPUTS]` as [`Matmul`] reads one group of rows or columns.
fn tiles(values: &[f16], count: usize) -> Vec<f16> {
    let tile = |step: usize, first: usize| {
        let rows = first..first + 16;
        rows.flat_map(move |row| &values[row * INPUTS + 16 * step..][..16])
    };
    (0..INPUTS / 16)
        .flat_map(|step| {
            (0..count)
                .step_by(16)
                .flat_map(move |first| tile(step, first))
        })
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_is_a_product() {
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
        let gpu = Gpu::open(adapter, crate::Options::default()).unwrap();
        let context = Context::new(&gpu);
        let found = context.linears.probe(&context, false).unwrap();
        let (x, w) = (
            numbers(ROWS * INPUTS, ROW_SEED),
            numbers(OUTPUTS * INPUTS, COLUMN_SEED),
        );
        let expected: Vec<f32> = x
            .chunks_exact(INPUTS)
            .flat_map(|x| {
                w.chunks_exact(INPUTS).map(move |w| {
                    x.iter()
                        .zip(w)
                        .map(|(x, w)| x.to_f32() * w.to_f32())
                        .sum::<f32>()
                })
            })
            .collect();
        assert_eq!(found, expected);
        // Whatever the answer, it is had.
        context.linears.matrices(&context).unwrap();
    }
}
