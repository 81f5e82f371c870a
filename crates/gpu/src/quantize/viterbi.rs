//! The search for walks through the trellis, a dispatch for many tiles.

use bytemuck::{Pod, Zeroable};
use half::f16;
use treillage_shaders::encode::{EncodeMetric, TrellisEncode};
use treillage_trellis::viterbi::{Effort, Grid, Window};
use treillage_trellis::{Bits, Codebook, TILE_WEIGHTS};

use crate::{Buffer, Context, Error, Gpu, Pipeline, Slice, Work};

/// Memory for the costs kept of tiles that are being encoded: up to 4 MiB for each workgroup.
const KEPT: u64 = 1 << 30;
/// The same where the device is the CPU, which has few tiles under way.
const KEPT_BY_FEW: u64 = 16 << 20;
/// Tiles of a dispatch, so that none takes so long that a driver gives up on it.
const TILES_AT_ONCE: usize = 1 << 12;

/// What makes the search fast or slow, and changes next to nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Lanes that share two tiles: a power of two from 64 to 1024, fewer where the device has fewer.
    pub lanes: usize,
    /// Costs that lanes show one another at a time: a power of two from 2048, fewer where the device has less workgroup memory.
    pub shown: usize,
    /// Up to four bits, costs in half precision, where the device has it, instead of whole numbers: twice as fast, with errors within a
    /// thousandth.
    pub halves: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            lanes: 256,
            shown: 4096,
            halves: true,
        }
    }
}

/// Encodes tiles at one rate with one codebook.
#[derive(Debug)]
pub struct TileEncoder {
    kernel: TrellisEncode,
    pipeline: Pipeline,
    bits: Bits,
    window: Window,
    grid: Grid,
    /// Weights in the order of the kernel, on its grid.
    weights: Slice,
    /// Those of states.
    values: Slice,
    kept: Buffer,
    /// What is taken of a dispatch, and by how many no more; zeros between dispatches.
    queue: Slice,
}

/// Where the words of tiles go: those of row `row` of each of several linears, of `across` tiles in a row and `down` rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) across: usize,
    pub(super) down: usize,
    pub(super) row: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    first: u32,
    tiles: u32,
    across: u32,
    down: u32,
    row: u32,
    most: u32,
    before: u32,
    after: u32,
    lowest: f32,
    highest: f32,
    scale: f32,
}

impl TileEncoder {
    /// With memory for what a search keeps.
    ///
    /// # Errors
    /// If the device has no memory left, or refuses the kernel.
    pub fn new(
        context: &Context,
        bits: Bits,
        codebook: Codebook,
        effort: Effort,
        tuning: Tuning,
    ) -> Result<Self, Error> {
        let gpu = context.gpu();
        let kernel = kernel(gpu, bits, tuning);
        let compose = kernel.specialization().compose(TrellisEncode::SOURCE);
        let source = compose.map_err(|error| Error::Kernel {
            kernel: TrellisEncode::SOURCE.to_owned(),
            reason: error.to_string(),
        })?;
        let name = format!("{} K={bits}", TrellisEncode::SOURCE);
        let (table, grid) = (codebook.table(), Grid::new(codebook));
        let weight = |state: &u16| {
            let weight = table[usize::from(*state)];
            f16::from_f32(match kernel.metric {
                EncodeMetric::Whole => grid.place(weight),
                EncodeMetric::Single | EncodeMetric::Halves => weight,
            })
        };
        let weights: Vec<f16> = kernel.order().iter().map(weight).collect();
        let put = |what, bytes: &[u8]| -> Result<Slice, Error> {
            let slice = gpu.buffer(what, bytes.len() as u64)?.slice();
            gpu.upload(&slice, 0, bytes)?;
            Ok(slice)
        };
        let slot = kernel.slot_bytes() as u64;
        let kept = if gpu.is_software() { KEPT_BY_FEW } else { KEPT };
        let slots = (kept.min(gpu.max_binding()) / slot).max(1);
        Ok(Self {
            pipeline: gpu.pipeline(&name, &source, &[])?,
            bits,
            window: effort.window(),
            grid,
            weights: put("a codebook", bytemuck::cast_slice(&weights))?,
            values: put("a codebook", bytemuck::cast_slice(table))?,
            kept: gpu.buffer("costs of tiles", slots * slot)?,
            queue: put("a queue of tiles", &[0; 8])?,
            kernel,
        })
    }

    /// Words of a packed tile.
    pub fn words_per_tile(&self) -> usize {
        self.bits.words_per_tile()
    }

    /// Encodes any number of tiles: `targets` is `[tiles, 256]`, in trellis order and in units of the codebook. Gives their packed
    /// words, [`Bits::words_per_tile`] each.
    ///
    /// # Errors
    /// What the device reports.
    ///
    /// # Panics
    /// If `targets` is not a whole number of tiles.
    pub fn encode(&self, context: &Context, targets: &[f32]) -> Result<Vec<u16>, Error> {
        assert!(
            targets.len().is_multiple_of(TILE_WEIGHTS),
            "a tile is {TILE_WEIGHTS} targets"
        );
        let mut words =
            Vec::with_capacity(targets.len() / TILE_WEIGHTS * self.bits.words_per_tile());
        for targets in targets.chunks(TILES_AT_ONCE * TILE_WEIGHTS) {
            let tiles = targets.len() / TILE_WEIGHTS;
            let on_device = context.bring(targets)?;
            let out = context.tensor(tiles, self.bits.words_per_tile() / 2)?;
            let place = Place {
                across: tiles,
                down: 1,
                row: 0,
            };
            self.record(context, &on_device.slice(), &out.slice(), tiles, place);
            let bytes = context.recorder.read(&out.slice())?;
            words.extend(bytemuck::pod_collect_to_vec::<u8, u16>(&bytes));
        }
        Ok(words)
    }

    /// Records the search for `tiles` tiles. `targets`, `[tiles, 256]`, becomes what was found; its words go to `words` of the linears.
    pub(super) fn record(
        &self,
        context: &Context,
        targets: &Slice,
        words: &Slice,
        tiles: usize,
        place: Place,
    ) {
        let slots = (self.kept.size() / self.kernel.slot_bytes() as u64).min(65_535) as usize;
        let (tiles_at_once, most) = match context.gpu().is_software() {
            // Mesa's leaves loops after 65,535 turns of all that an invocation runs.
            true => (slots * TrellisEncode::TILES, 1),
            false => (TILES_AT_ONCE, u32::MAX),
        };
        for first in (0..tiles).step_by(tiles_at_once) {
            let count = tiles_at_once.min(tiles - first);
            // Those that do not run at once find nothing left to do.
            let groups = count.div_ceil(TrellisEncode::TILES).min(slots);
            let params = Params {
                first: first as u32,
                tiles: (first + count) as u32,
                across: place.across as u32,
                down: place.down as u32,
                row: place.row as u32,
                most,
                before: self.window.before as u32,
                after: self.window.after as u32,
                lowest: self.grid.lowest,
                highest: self.grid.highest,
                scale: match self.kernel.metric {
                    EncodeMetric::Whole => self.grid.scale,
                    EncodeMetric::Single | EncodeMetric::Halves => 1.0,
                },
            };
            context.recorder.record(&crate::Dispatch {
                pipeline: &self.pipeline,
                slices: &[
                    &self.weights,
                    &self.values,
                    targets,
                    &self.kept.slice(),
                    words,
                    &self.queue,
                ],
                immediates: bytemuck::bytes_of(&params),
                grid: [groups as u32, 1, 1],
                work: self.work(count),
            });
            // Long enough to start it at once.
            context.recorder.submit();
        }
    }

    /// A subtraction, a square added and a comparison for each of 65,536 states and each step of both passes.
    fn work(&self, tiles: usize) -> Work {
        let steps = (TILE_WEIGHTS + self.window.steps()) as u64;
        Work {
            bytes: tiles as u64 * (8 * TILE_WEIGHTS as u64 + 2 * self.bits.words_per_tile() as u64),
            operations: 3 * tiles as u64 * steps * treillage_trellis::STATES as u64,
        }
    }
}

/// The kernel that `gpu` can run.
fn kernel(gpu: &Gpu, bits: Bits, tuning: Tuning) -> TrellisEncode {
    let limits = gpu.limits();
    let lanes = limits
        .max_compute_invocations_per_workgroup
        .min(limits.max_compute_workgroup_size_x) as usize;
    let metric = match bits.get() {
        // Differences are large beside what half precision loses, and beside steps of the grid.
        1..=4 if tuning.halves && gpu.has_f16() => EncodeMetric::Halves,
        1..=4 => EncodeMetric::Whole,
        _ => EncodeMetric::Single,
    };
    let mut kernel = TrellisEncode {
        bits: bits.get(),
        metric,
        // Rounded down to a power of two.
        lanes: tuning.lanes.min(1 << lanes.max(1).ilog2()),
        shown: tuning.shown,
    };
    let room = limits.max_compute_workgroup_storage_size as usize;
    while kernel.workgroup_bytes() > room && kernel.shown > kernel.lanes {
        kernel.shown /= 2;
    }
    // Lanes show a run each, at the least.
    while kernel.workgroup_bytes() > room && kernel.lanes > 64 {
        kernel.lanes /= 2;
    }
    kernel
}
