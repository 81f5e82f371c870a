//! The size at which weights of unit variance are laid over the codebook.

use nalgebra::DMatrix;
use rayon::prelude::*;

use crate::viterbi::Encoder;
use crate::{Bits, Codebook, TILE, TILE_WEIGHTS, tile};

/// Where the optimum lies for Gaussian weights, in units of the codebook's standard deviation, by K − 1.
const GAUSSIAN: [f32; 8] = [0.97, 0.98, 0.94, 0.95, 0.90, 0.90, 0.84, 0.81];
/// Distance of neighbouring candidates, as a part of the Gaussian optimum.
const STEP: f32 = 0.07;
/// Tiles to try candidates on: a sixteenth of all, within these bounds, so that the search stays cheaper than the encoding.
const SAMPLE: std::ops::RangeInclusive<usize> = 4..=32;

/// The factor of least squared error over a sample of tiles: five candidates around the Gaussian optimum, and the
/// minimum of the parabola through the best of them.
pub(crate) fn search(
    weights: &DMatrix<f32>,
    bits: Bits,
    codebook: Codebook,
    encoder: &Encoder,
) -> f32 {
    let start = GAUSSIAN[bits.get() - 1] * standard_deviation(codebook);
    let tiles = sample(weights);
    if tiles.iter().flatten().all(|w| *w == 0.0) {
        return start;
    }
    let candidate = |step: usize| start * (1.0 + STEP * (step as f32 - 2.0));
    let errors: Vec<f64> = (0..5)
        .map(|step| error(&tiles, candidate(step), codebook, encoder))
        .collect();
    let best = (0..5)
        .min_by(|&a, &b| errors[a].total_cmp(&errors[b]))
        .unwrap_or(2);
    let offset = match best {
        1..=3 => vertex(errors[best - 1], errors[best], errors[best + 1]),
        _ => 0.0,
    };
    candidate(best) + offset * start * STEP
}

/// Where the parabola through (−1, a), (0, b), (1, c) is least, within half a step of the middle.
fn vertex(a: f64, b: f64, c: f64) -> f32 {
    let curvature = a - 2.0 * b + c;
    if curvature <= 0.0 {
        return 0.0;
    }
    ((a - c) / (2.0 * curvature)).clamp(-0.5, 0.5) as f32
}

/// Tiles evenly spread over the matrix, in trellis order.
fn sample(weights: &DMatrix<f32>) -> Vec<[f32; TILE_WEIGHTS]> {
    let (tiles_in, tiles_out) = (weights.nrows() / TILE, weights.ncols() / TILE);
    let all = tiles_in * tiles_out;
    let count = (all / 16).clamp(*SAMPLE.start(), *SAMPLE.end()).min(all);
    (0..count)
        .map(|i| {
            let number = i * all / count;
            // Walk both axes: neighbours in number are in different tile rows and columns.
            let (row, column) = (number % tiles_in, (number / tiles_in + i) % tiles_out);
            let window = weights.view((row * TILE, column * TILE), (TILE, TILE));
            tile::to_trellis_order(&std::array::from_fn(|place| {
                window[(place / TILE, place % TILE)]
            }))
        })
        .collect()
}

/// Mean squared error of `tiles` encoded at `scale`, in their own units.
fn error(tiles: &[[f32; TILE_WEIGHTS]], scale: f32, codebook: Codebook, encoder: &Encoder) -> f64 {
    let table = codebook.table();
    let errors: Vec<f64> = tiles
        .par_iter()
        .map(|tile| {
            let states = encoder.encode_tile(&tile.map(|w| w * scale));
            let error = |(&state, w): (&u16, &f32)| {
                f64::from(table[usize::from(state)] / scale - w).powi(2)
            };
            states.iter().zip(tile).map(error).sum()
        })
        .collect();
    errors.iter().sum::<f64>() / (tiles.len() * TILE_WEIGHTS) as f64
}

fn standard_deviation(codebook: Codebook) -> f32 {
    match codebook {
        Codebook::ThreeInst => 1.243_711,
        Codebook::Mcg => 1.244_112,
        Codebook::Mul1 => 1.000_31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STATES;

    #[test]
    fn standard_deviations_are_the_tables() {
        for codebook in Codebook::ALL {
            let values = codebook.table().iter().map(|v| f64::from(*v));
            let mean = values.clone().sum::<f64>() / STATES as f64;
            let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / STATES as f64;
            assert!((variance.sqrt() as f32 - standard_deviation(codebook)).abs() < 1e-5);
        }
    }

    #[test]
    fn the_vertex_of_a_parabola_is_found() {
        let parabola = |x: f64| (x - 0.3).powi(2) + 1.0;
        assert!((vertex(parabola(-1.0), parabola(0.0), parabola(1.0)) - 0.3).abs() < 1e-6);
        assert_eq!(vertex(1.0, 2.0, 1.0), 0.0);
    }

    #[test]
    fn samples_are_tiles_of_the_matrix() {
        let weights = DMatrix::from_fn(128, 256, |row, column| (row * 256 + column) as f32);
        let tiles = sample(&weights);
        assert_eq!(tiles.len(), 8);
        for sampled in tiles {
            let first = tile::to_row_major(&sampled);
            let (row, column) = (first[0] as usize / 256, first[0] as usize % 256);
            assert!(row % TILE == 0 && column % TILE == 0);
            assert_eq!(first[17] as usize, (row + 1) * 256 + column + 1);
        }
    }
}
