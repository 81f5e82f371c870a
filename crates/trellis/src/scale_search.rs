//! The size at which weights of unit variance are laid over the codebook.

use nalgebra::DMatrix;
use treillage_linalg::BlockLdl;

use crate::{Bits, Codebook, TILE, TILE_WEIGHTS, tile};

/// For Gaussian weights of unit variance, by K − 1: the best size, in units of the codebook's standard deviation, and
/// the squared error there. Measured over 76,800 weights; sizes of ±5 % cost 1 % up to 4 bits, 2 to 8 % above.
pub(crate) const GAUSSIAN: [(f32, f32); 8] = [
    (1.07, 0.273),
    (0.98, 0.0683),
    (0.945, 0.0174),
    (0.905, 0.004_47),
    (0.88, 0.001_15),
    (0.83, 0.000_30),
    (0.80, 0.000_080),
    (0.775, 0.000_020_5),
];
/// Distance of the candidates on either side, as a part of the Gaussian optimum.
const STEP: f32 = 0.08;
/// One tile in so many is tried. With three candidates this stays below a tenth of the encoding.
const SAMPLED: usize = 32;
/// Fewer tiles than this would be further from the truth than the Gaussian optimum is.
const FEWEST: usize = 32;
/// More would not come closer.
const MOST: usize = 64;
/// Above this rate the error hangs on outliers too rare for any sample.
const MOST_BITS: usize = 4;

/// The search for the factor of least squared error: the minimum of the parabola through three candidates tried on a sample,
/// or the Gaussian optimum where a sample would not do better.
#[derive(Debug)]
pub(crate) struct Trial {
    /// Of unit variance; empty where nothing is to be tried.
    tiles: Vec<[f32; TILE_WEIGHTS]>,
    start: f32,
}

impl Trial {
    /// For `weights` of unit variance.
    pub(crate) fn new(weights: &DMatrix<f32>, bits: Bits, codebook: Codebook) -> Self {
        let mut tiles = sample(weights);
        if tiles.len() < FEWEST || bits.get() > MOST_BITS {
            tiles.clear();
        }
        Self {
            tiles,
            start: GAUSSIAN[bits.get() - 1].0 * standard_deviation(codebook),
        }
    }

    fn candidates(&self) -> [f32; 3] {
        [1.0 - STEP, 1.0, 1.0 + STEP].map(|part| part * self.start)
    }

    /// What is to be tried: the sample at one candidate, then at the next.
    pub(crate) fn samples(&self) -> Vec<[f32; TILE_WEIGHTS]> {
        let at = |scale: f32| self.tiles.iter().map(move |tile| tile.map(|w| w * scale));
        self.candidates().into_iter().flat_map(at).collect()
    }

    /// The best factor, by the states of all samples.
    pub(crate) fn best(&self, states: &[[u16; TILE_WEIGHTS]], codebook: Codebook) -> f32 {
        assert_eq!(states.len(), 3 * self.tiles.len(), "states of all samples");
        if self.tiles.is_empty() {
            return self.start;
        }
        let mut states = states.chunks_exact(self.tiles.len());
        let [below, at, above] = self.candidates().map(|scale| {
            let states = states.next().unwrap_or_default();
            error(&self.tiles, states, scale, codebook)
        });
        self.start * (1.0 + STEP * vertex(below, at, above))
    }
}

/// The part by which targets that take up feedback must be smaller than weights: `1 / √ν`, where `ν` is their variance,
/// each block of rows counted by its part in the error.
///
/// Block LDLQ adds `Lᵀ E` to the weights. Errors are uncorrelated with them, of the rate's known variance `e`, so row `i` of
/// the targets has variance `1 + e ‖L_i‖²`, and its error counts as much as its entry of `D`.
pub(crate) fn room_for_feedback(factors: &BlockLdl, bits: Bits) -> f32 {
    let width = factors.diagonal.ncols();
    let (mut fed_back, mut whole) = (0.0, 0.0);
    for (row, column) in factors.lower.column_iter().enumerate() {
        let weight = f64::from(factors.diagonal[(row, row % width)]);
        fed_back += weight * f64::from(column.norm_squared());
        whole += weight;
    }
    let error = f64::from(GAUSSIAN[bits.get() - 1].1);
    (1.0 + error * fed_back / whole).sqrt().recip() as f32
}

/// Where the parabola through (−1, a), (0, b), (1, c) is least, within a step of the middle.
fn vertex(a: f64, b: f64, c: f64) -> f32 {
    let curvature = a - 2.0 * b + c;
    if curvature <= 0.0 {
        return 0.0;
    }
    ((a - c) / (2.0 * curvature)).clamp(-1.0, 1.0) as f32
}

/// Tiles evenly spread over the matrix, in trellis order.
fn sample(weights: &DMatrix<f32>) -> Vec<[f32; TILE_WEIGHTS]> {
    let (tiles_in, tiles_out) = (weights.nrows() / TILE, weights.ncols() / TILE);
    let all = tiles_in * tiles_out;
    let count = (all / SAMPLED).min(MOST);
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

/// Mean squared error of `tiles` that are `states` at `scale`, in their own units.
fn error(
    tiles: &[[f32; TILE_WEIGHTS]],
    states: &[[u16; TILE_WEIGHTS]],
    scale: f32,
    codebook: Codebook,
) -> f64 {
    let table = codebook.table();
    let of_tile = |(tile, states): (&[f32; TILE_WEIGHTS], &[u16; TILE_WEIGHTS])| -> f64 {
        let error =
            |(&state, w): (&u16, &f32)| f64::from(table[usize::from(state)] / scale - w).powi(2);
        states.iter().zip(tile).map(error).sum()
    };
    let errors: f64 = tiles.iter().zip(states).map(of_tile).sum();
    errors / (tiles.len() * TILE_WEIGHTS) as f64
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
    fn feedback_asks_for_the_room_that_its_variance_takes() {
        let bits = Bits::MIN;
        let mut factors = BlockLdl {
            lower: DMatrix::zeros(32, 32),
            diagonal: DMatrix::from_element(32, 16, 2.0),
            damping: 0.0,
            attempts: 1,
        };
        assert_eq!(room_for_feedback(&factors, bits), 1.0);
        // Half of all rows take up one error each.
        for row in 0..16 {
            factors.lower[(row + 16, row)] = 1.0;
        }
        let variance = 1.0 + f64::from(GAUSSIAN[0].1) / 2.0;
        assert!((f64::from(room_for_feedback(&factors, bits)) - variance.powf(-0.5)).abs() < 1e-6);
    }

    #[test]
    fn samples_are_tiles_of_the_matrix() {
        let weights = DMatrix::from_fn(256, 128, |row, column| (row * 128 + column) as f32);
        let tiles = sample(&weights);
        assert_eq!(tiles.len(), 4);
        for sampled in tiles {
            let first = tile::to_row_major(&sampled);
            let (row, column) = (first[0] as usize / 128, first[0] as usize % 128);
            assert!(row % TILE == 0 && column % TILE == 0);
            assert_eq!(first[17] as usize, (row + 1) * 128 + column + 1);
        }
    }
}
