//! Outputs cut into blocks of columns, the unit of parallel work.

use std::ops::Range;

use rayon::prelude::*;

/// Columns of a block: the width of a trellis block, enough work for a task even for one row.
pub(crate) const BLOCK: usize = 128;

/// A row-major matrix to be filled.
pub(crate) struct Output<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) cols: usize,
}

/// Calls `fill(output, columns, rows)` for every block of columns of every output, in parallel: `rows` are the parts of
/// that output's rows that lie in `columns`.
pub(crate) fn for_each_block<'a>(
    outputs: impl IntoIterator<Item = Output<'a>>,
    fill: impl Fn(usize, Range<usize>, &mut [&mut [f32]]) + Sync,
) {
    let mut outputs: Vec<(usize, Blocks<'a>)> = outputs
        .into_iter()
        .map(|output| (output.cols, Blocks::new(output, BLOCK)))
        .collect();
    let tasks: Vec<_> = outputs
        .iter_mut()
        .enumerate()
        .flat_map(|(output, (cols, blocks))| {
            let cols = *cols;
            blocks.iter_mut().enumerate().map(move |(block, rows)| {
                let first = block * BLOCK;
                (output, first..(first + BLOCK).min(cols), rows)
            })
        })
        .collect();
    tasks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(output, columns, rows)| fill(output, columns, rows));
}

/// The parts of an output's rows, block by block.
pub(crate) struct Blocks<'a> {
    rows: usize,
    parts: Vec<&'a mut [f32]>,
}

impl<'a> Blocks<'a> {
    /// Cuts rows into parts of `width`; the last ones may be narrower.
    pub(crate) fn new(output: Output<'a>, width: usize) -> Self {
        let Output { values, cols } = output;
        let rows = values.len() / cols.max(1);
        let mut parts = Vec::new();
        parts.resize_with(rows * cols.div_ceil(width), Default::default);
        for (row, values) in values.chunks_exact_mut(cols.max(1)).enumerate() {
            for (block, part) in values.chunks_mut(width).enumerate() {
                parts[block * rows + row] = part;
            }
        }
        Self { rows, parts }
    }

    /// The rows of each block.
    pub(crate) fn iter_mut<'b>(&'b mut self) -> impl Iterator<Item = &'b mut [&'a mut [f32]]> {
        self.parts.chunks_mut(self.rows.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_block() {
        for (rows, cols) in [(1, 1), (3, 128), (2, 300), (5, 129), (0, 7)] {
            let mut a = vec![0.0; rows * cols];
            let mut b = vec![0.0; rows * 2 * cols];
            let outputs = [(&mut a, cols), (&mut b, 2 * cols)];
            let outputs = outputs.map(|(values, cols)| Output { values, cols });
            for_each_block(outputs, |output, columns, parts| {
                assert_eq!(parts.len(), rows);
                for (row, part) in parts.iter_mut().enumerate() {
                    for (column, value) in columns.clone().zip(part.iter_mut()) {
                        *value += (output * 10_000 + row * 1_000 + column) as f32;
                    }
                }
            });
            for (output, (values, cols)) in [(a, cols), (b, 2 * cols)].iter().enumerate() {
                for (i, &value) in values.iter().enumerate() {
                    let (row, column) = (i / cols, i % cols);
                    assert_eq!(value, (output * 10_000 + row * 1_000 + column) as f32);
                }
            }
        }
    }
}
