//! The search for walks through the trellis, a dispatch for many tiles.

use bytemuck::{Pod, Zeroable};
use half::f16;
use treillage_shaders::encode::TrellisEncode;
use treillage_trellis::viterbi::{Effort, Grid, Window};
use treillage_trellis::{Bits, Codebook, TILE_WEIGHTS};

use crate::{Buffer, Context, Error, Gpu, Pipeline, Slice, Work};

/// Memory for the branches of tiles that are being encoded: a quarter of a MiB to one for each.
const TRACES: u64 = 512 << 20;
/// The same where the device is the CPU, which has few tiles under way.
const FEW_TRACES: u64 = 8 << 20;
/// Tiles of a dispatch, so that none takes so long that a driver gives up on it.
const TILES_AT_ONCE: usize = 1 << 12;

/// What makes the search fast or slow, and changes nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Lanes that share a tile: a power of two from 256 to 1024, fewer where the device has fewer.
    pub lanes: usize,
    /// Costs that lanes show one another at a time: a power of two from 4096, fewer where the device has less workgroup memory.
    pub shown: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            lanes: 256,
            shown: 4096,
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
    traces: Buffer,
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
            f16::from_f32(match kernel.is_tagged() {
                true => f32::from(kernel.step()) * grid.place(weight),
                false => weight,
            })
        };
        let weights: Vec<f16> = kernel.order().iter().map(weight).collect();
        let put = |what, bytes: &[u8]| -> Result<Slice, Error> {
            let slice = gpu.buffer(what, bytes.len() as u64)?.slice();
            gpu.upload(&slice, 0, bytes)?;
            Ok(slice)
        };
        let slot = 4 * kernel.slot_words() as u64;
        let traces = if gpu.is_software() {
            FEW_TRACES
        } else {
            TRACES
        };
        let slots = (traces.min(gpu.max_binding()) / slot).max(1);
        Ok(Self {
            pipeline: gpu.pipeline(&name, &source, &[])?,
            bits,
            window: effort.window(),
            grid,
            weights: put("a codebook", bytemuck::cast_slice(&weights))?,
            values: put("a codebook", bytemuck::cast_slice(table))?,
            traces: gpu.buffer("traces of tiles", slots * slot)?,
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
        let slots = self.traces.size() / (4 * self.kernel.slot_words() as u64);
        for first in (0..tiles).step_by(TILES_AT_ONCE) {
            let count = TILES_AT_ONCE.min(tiles - first);
            // As many rounds as it takes, of equally many tiles.
            let rounds = count.div_ceil(slots.min(65_535) as usize);
            let params = Params {
                first: first as u32,
                tiles: (first + count) as u32,
                across: place.across as u32,
                down: place.down as u32,
                row: place.row as u32,
                before: self.window.before as u32,
                after: self.window.after as u32,
                lowest: self.grid.lowest,
                highest: self.grid.highest,
                scale: match self.kernel.is_tagged() {
                    true => self.grid.scale,
                    false => 1.0,
                },
            };
            context.recorder.record(&crate::Dispatch {
                pipeline: &self.pipeline,
                slices: &[
                    &self.weights,
                    &self.values,
                    targets,
                    &self.traces.slice(),
                    words,
                ],
                immediates: bytemuck::bytes_of(&params),
                grid: [count.div_ceil(rounds) as u32, 1, 1],
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
    let room = limits.max_compute_workgroup_storage_size as usize / 4;
    // Rounded down to powers of two.
    let fit = |wanted: usize, most: usize| wanted.min(1 << most.max(1).ilog2());
    TrellisEncode {
        bits: bits.get(),
        lanes: fit(tuning.lanes, lanes),
        shown: fit(tuning.shown, room),
    }
}
