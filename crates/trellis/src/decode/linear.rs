use nalgebra::DMatrix;
use rayon::prelude::*;
use treillage_linalg::hadamard;

use super::decode_tile;
use crate::{PackedLinear, TILE, TILE_WEIGHTS};

impl PackedLinear {
    /// The decoded trellis `What`, of shape (in, out): the weights in the rotated basis, exact.
    pub fn decode_inner(&self) -> DMatrix<f32> {
        let [tiles_in, tiles_out, words_per_tile] = self.shape();
        let rows = self.in_features();
        let mut inner = DMatrix::zeros(rows, self.out_features());
        inner
            .as_mut_slice()
            .par_chunks_exact_mut(TILE * rows)
            .enumerate()
            .for_each(|(tile_column, columns)| {
                let mut tile = [0.0; TILE_WEIGHTS];
                for tile_row in 0..tiles_in {
                    let start = (tile_row * tiles_out + tile_column) * words_per_tile;
                    let words = &self.words()[start..start + words_per_tile];
                    decode_tile(words, self.bits(), self.codebook(), &mut tile);
                    for (place, &value) in tile.iter().enumerate() {
                        let (row, column) = (place / TILE, place % TILE);
                        columns[column * rows + tile_row * TILE + row] = value;
                    }
                }
            });
        inner
    }

    /// The weights in the original basis, `W = diag(suh) · H · What · H · diag(svh)`, of shape (in, out): `y = x W`.
    pub fn dequantize(&self) -> DMatrix<f32> {
        let mut weights = self.decode_inner();
        hadamard::rotate_rows(&mut weights, 128);
        hadamard::rotate_columns(&mut weights, 128);
        let input_scale: Vec<f32> = self.suh().iter().map(|s| s.to_f32()).collect();
        for (mut column, output_scale) in weights.column_iter_mut().zip(self.svh()) {
            let output_scale = output_scale.to_f32();
            for (weight, input_scale) in column.iter_mut().zip(&input_scale) {
                *weight *= input_scale * output_scale;
            }
        }
        weights
    }
}
