//! Encoding with feedback, many linears of one size at a time: what `treillage_trellis` does on the CPU.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use nalgebra::DMatrix;
use rayon::prelude::*;
use treillage_trellis::{Preparation, TILE, TILE_WEIGHTS};

use super::TileEncoder;
use super::viterbi::Place;
use crate::recorder::Download;
use crate::{Context, Error, Region, Slice, Tensor, Work};

/// Columns of a workgroup of the feedback's kernel; linears are padded to whole ones.
const COLUMNS: usize = 128;

/// Sizes that all linears of a batch have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Size {
    /// Bytes of one linear's weights on the device.
    pub(super) fn weights(self) -> u64 {
        4 * (self.rows * self.columns) as u64
    }

    /// Bytes of one linear's factors.
    fn factors(self) -> u64 {
        4 * (self.rows * self.rows) as u64
    }

    /// As many linears as take about `bytes` with all that goes with them, one at least.
    pub(super) fn fit(self, bytes: u64, binding: u64) -> usize {
        let largest = self.weights().max(self.factors());
        let count = (bytes / (self.weights() + self.factors())).min(binding / largest);
        (count as usize).max(1)
    }
}

/// Codes of linears, on their way to the host, and what they stand for.
pub(super) struct Coming {
    words: Download<1>,
    /// Bytes of one linear's words.
    each: usize,
    /// Inputs of one linear.
    rows: usize,
    /// `[in, out]`, one linear behind the other, in the basis that was encoded.
    values: Tensor,
}

impl Coming {
    /// The values of linear `index`.
    pub(super) fn values(&self, index: usize) -> Tensor {
        let (rows, columns) = (self.rows, self.values.width());
        self.values.part(index * rows * columns, rows, columns)
    }

    /// Waits for the packed words of each.
    ///
    /// # Errors
    /// What the device reports.
    pub(super) fn wait(self) -> Result<Vec<Vec<u16>>, Error> {
        let [bytes] = self.words.wait()?;
        let each = bytes.chunks_exact(self.each);
        Ok(each.map(bytemuck::pod_collect_to_vec).collect())
    }
}

/// Encodes linears whose scale is settled, without waiting for it.
pub(super) fn encode(
    context: &Context,
    encoder: &TileEncoder,
    linears: &[Preparation<'_>],
    size: Size,
) -> Result<Coming, Error> {
    let Size { rows, columns } = size;
    let count = linears.len();
    let (down, across) = (rows / TILE, columns / TILE);
    let fed = linears.iter().any(|linear| linear.feedback().is_some());
    let (weights, _held) = upload_weights(context, linears, size)?;
    let (factors, _held) = match fed {
        true => upload_factors(context, linears, size)?,
        false => room(context, 4)?,
    };
    let (targets, _held) = room(context, (4 * count * across * TILE_WEIGHTS) as u64)?;
    let word_bytes = 2 * encoder.words_per_tile();
    let (words, _held) = room(context, (count * down * across * word_bytes) as u64)?;
    let values = context.tensor(count * rows, columns)?;
    for row in (0..down).rev() {
        let place = Place { across, down, row };
        let start = row * TILE;
        let last = if fed { rows } else { start + TILE };
        feed_back(
            context,
            [&factors, &weights, &targets],
            size,
            count,
            start,
            last,
        )?;
        encoder.record(context, &targets, &words, count * across, place);
        let slices = [&targets, &weights, &values.slice()];
        take_errors(context, slices, size, count, start)?;
    }
    Ok(Coming {
        words: context.recorder.download([&words]),
        each: down * across * word_bytes,
        rows,
        values,
    })
}

/// Memory lent for as long as the second of the two is held.
fn room(context: &Context, bytes: u64) -> Result<(Slice, Arc<Region>), Error> {
    let region = context.arena.lend(bytes)?;
    Ok((region.range(0, bytes), region))
}

/// Column-major matrices, row-major on the device.
fn upload_weights(
    context: &Context,
    linears: &[Preparation<'_>],
    size: Size,
) -> Result<(Slice, Arc<Region>), Error> {
    let (weights, region) = room(context, linears.len() as u64 * size.weights())?;
    let block = 4 * size.columns * TILE;
    for (linear, at) in linears.iter().zip((0..).step_by(size.weights() as usize)) {
        let matrix = linear.targets();
        let bytes = size.weights() as usize;
        context
            .gpu()
            .upload_with(&weights, at, bytes, block, |start, piece| {
                let first = start / block;
                let blocks = piece.par_chunks_exact_mut(block).enumerate();
                blocks.for_each(|(i, piece)| transpose(matrix, (first + i) * TILE, piece));
            })?;
    }
    Ok((weights, region))
}

/// Rows `start..start + TILE` of `matrix`, row-major.
fn transpose(matrix: &DMatrix<f32>, start: usize, bytes: &mut [u8]) {
    let columns = matrix.ncols();
    for (column, values) in matrix.column_iter().enumerate() {
        for (row, value) in values.as_slice()[start..start + TILE].iter().enumerate() {
            let at = 4 * (row * columns + column);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// Columns of the factors as they lie, zeros for linears without.
fn upload_factors(
    context: &Context,
    linears: &[Preparation<'_>],
    size: Size,
) -> Result<(Slice, Arc<Region>), Error> {
    let (factors, region) = room(context, linears.len() as u64 * size.factors())?;
    for (linear, at) in linears.iter().zip((0..).step_by(size.factors() as usize)) {
        match linear.feedback() {
            Some(lower) => {
                let bytes = bytemuck::cast_slice(lower.as_slice());
                context.gpu().upload(&factors, at, bytes)?;
            }
            None => context.recorder.clear(&factors.range(at, size.factors())),
        }
    }
    Ok((factors, region))
}

fn feed_back(
    context: &Context,
    slices: [&Slice; 3],
    size: Size,
    count: usize,
    start: usize,
    last: usize,
) -> Result<(), Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        rows: u32,
        columns: u32,
        start: u32,
        last: u32,
    }
    let params = Params {
        rows: size.rows as u32,
        columns: size.columns as u32,
        start: start as u32,
        last: last as u32,
    };
    let behind = last - start - TILE;
    let work = Work {
        bytes: 4 * (count * size.columns * (behind + 2 * TILE) + count * TILE * behind) as u64,
        operations: 2 * (count * size.columns * TILE * behind) as u64,
    };
    let grid = [(size.columns / COLUMNS) as u32, count as u32, 1];
    context.run_for(work, "encode/feedback", &[], &slices, &params, grid)
}

fn take_errors(
    context: &Context,
    slices: [&Slice; 3],
    size: Size,
    count: usize,
    start: usize,
) -> Result<(), Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        rows: u32,
        columns: u32,
        start: u32,
    }
    let params = Params {
        rows: size.rows as u32,
        columns: size.columns as u32,
        start: start as u32,
    };
    let work = Work {
        bytes: 16 * (count * size.columns * TILE) as u64,
        operations: (count * size.columns * TILE) as u64,
    };
    let grid = [(size.columns / TILE) as u32, count as u32, 1];
    context.run_for(work, "encode/errors", &[], &slices, &params, grid)
}
