//! Encoding with feedback: each block of rows takes up the error of the blocks after it.

use nalgebra::DMatrix;
use rayon::prelude::*;
use treillage_linalg::{Parallelism, View, ViewMut, gemm};

use crate::viterbi::Encoder;
use crate::{Bits, Codebook, TILE, TILE_WEIGHTS, tile};

/// Encodes `weights`, in units of the codebook, so that `tr(Eᵀ H E)` of the error `E` becomes small, where `feedback` is the
/// strictly block-lower part of `H = L D Lᵀ` in blocks of a tile's rows (block LDLQ, QuIP#, arXiv 2402.04396, §4.1).
/// Without it each tile is encoded by itself.
///
/// Blocks of rows go from the last to the first; columns know nothing of each other, so that a tile's columns go
/// through the whole matrix in one task. The result, packed tiles row-major, does not depend on the number of threads.
pub(crate) fn encode(
    weights: &DMatrix<f32>,
    feedback: Option<&DMatrix<f32>>,
    bits: Bits,
    codebook: Codebook,
    encoder: &Encoder,
) -> Vec<u16> {
    let (rows, columns) = weights.shape();
    let (tiles_in, tiles_out, tile_words) = (rows / TILE, columns / TILE, bits.words_per_tile());
    let strips: Vec<Vec<[u16; TILE_WEIGHTS]>> = weights
        .as_slice()
        .par_chunks_exact(TILE * rows)
        .map(|weights| encode_strip(weights, rows, feedback, codebook, encoder))
        .collect();

    let mut words = vec![0; tiles_in * tiles_out * tile_words];
    for (number, words) in words.chunks_exact_mut(tile_words).enumerate() {
        let (row, column) = (number / tiles_out, number % tiles_out);
        tile::pack_states(&strips[column][row], bits, words);
    }
    words
}

/// Encodes a tile's columns, column-major `[TILE][rows]`, to each tile's states.
fn encode_strip(
    weights: &[f32],
    rows: usize,
    feedback: Option<&DMatrix<f32>>,
    codebook: Codebook,
    encoder: &Encoder,
) -> Vec<[u16; TILE_WEIGHTS]> {
    let table = codebook.table();
    let mut errors = vec![0.0; TILE * rows];
    let mut strip = vec![[0; TILE_WEIGHTS]; rows / TILE];
    for (block, states) in strip.iter_mut().enumerate().rev() {
        let (start, end) = (block * TILE, (block + 1) * TILE);
        // Row-major, as tiles are.
        let mut target = [0.0; TILE_WEIGHTS];
        if let Some(lower) = feedback.filter(|_| end < rows) {
            gemm(
                1.0,
                View::from(lower).window(end..rows, start..end).transpose(),
                View::column_major(&errors, rows, TILE).window(end..rows, 0..TILE),
                0.0,
                ViewMut::row_major(&mut target, TILE, TILE),
                Parallelism::Sequential,
            );
        }
        for (place, target) in target.iter_mut().enumerate() {
            *target += weights[place % TILE * rows + start + place / TILE];
        }
        *states = encoder.encode_tile(&tile::to_trellis_order(&target));
        let decoded = tile::to_row_major(&states.map(|state| table[usize::from(state)]));
        for (place, value) in decoded.into_iter().enumerate() {
            let at = place % TILE * rows + start + place / TILE;
            errors[at] = weights[at] - value;
        }
    }
    strip
}
