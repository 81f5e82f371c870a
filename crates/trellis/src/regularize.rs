//! Before encoding: scales and rotations that make a weight matrix look like independent Gaussians of one variance.

use nalgebra::DMatrix;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use treillage_linalg::hadamard;

use crate::OutScales;

/// Points of the Hadamard transform that rotates both axes, a constant of the format.
pub const ROTATION: usize = 128;

/// RMS of a row, relative to the mean, that stands for a row of zeros: its scale must not be zero, but no weight
/// should reach its channel either.
const ZERO_ROW: f32 = 0.1;
/// [`OutScales::Auto`] leaves them out if this share of the largest input channels ...
const DOMINANT_CHANNELS: usize = 50;
/// ... carries more than this part of all activations.
const DOMINANT_PART: f64 = 0.15;

/// `W = diag(input_scale) · H · weights · H · diag(output_scale)`, with weights of unit RMS.
pub(crate) struct Regularized {
    /// In the rotated basis, (in, out).
    pub(crate) weights: DMatrix<f32>,
    pub(crate) input_scale: Vec<f32>,
    /// Zero for an output whose weights are all zero.
    pub(crate) output_scale: Vec<f32>,
}

/// Draws signs, divides outputs and inputs by their RMS and rotates both axes.
///
/// `activations` is the RMS of each input channel, if known.
pub(crate) fn regularize(
    weights: &DMatrix<f32>,
    activations: Option<&[f32]>,
    out_scales: OutScales,
    rng: &mut ChaCha8Rng,
) -> Regularized {
    let (inputs, outputs) = weights.shape();
    let input_signs = signs(inputs, rng);
    let output_signs = signs(outputs, rng);

    let mut weights = weights.clone();
    let output_rms: Vec<f32> = weights.column_iter().map(|c| rms(c.as_slice())).collect();
    let mean = mean(&output_rms);
    let apply = match out_scales {
        OutScales::Always => true,
        OutScales::Never => false,
        OutScales::Auto => !activations.is_some_and(few_channels_dominate),
    };
    let output_fill = fill(&output_rms);
    let mut output_scale = Vec::with_capacity(outputs);
    for (at, (mut column, sign)) in weights.column_iter_mut().zip(output_signs).enumerate() {
        let rms = output_rms[at];
        if rms == 0.0 {
            output_scale.push(0.0);
        } else {
            let scale = if apply {
                rms / mean * output_fill[at / ROTATION].sqrt()
            } else {
                1.0
            };
            column /= sign * scale;
            output_scale.push(sign * scale);
        }
    }
    hadamard::rotate_columns(&mut weights, ROTATION);

    let mut row_rms = vec![0.0f64; inputs];
    for column in weights.column_iter() {
        for (sum, w) in row_rms.iter_mut().zip(column.as_slice()) {
            *sum += f64::from(*w).powi(2);
        }
    }
    let live = ROTATION
        * output_fill
            .iter()
            .filter(|fill| **fill > 0.0)
            .count()
            .max(1);
    let row_rms: Vec<f32> = row_rms
        .iter()
        .map(|sum| (sum / live as f64).sqrt() as f32)
        .collect();
    let input_fill = fill(&row_rms);
    let zero_row = match self::mean(&row_rms) {
        mean if mean > 0.0 => ZERO_ROW * mean,
        _ => 1.0,
    };
    let input_scale: Vec<f32> = (row_rms.iter().zip(input_signs).enumerate())
        .map(|(at, (&rms, sign))| match rms {
            0.0 => sign * zero_row,
            rms => sign * rms * input_fill[at / ROTATION].sqrt(),
        })
        .collect();
    for mut column in weights.column_iter_mut() {
        for (w, scale) in column.as_mut_slice().iter_mut().zip(&input_scale) {
            *w /= scale;
        }
    }
    hadamard::rotate_rows(&mut weights, ROTATION);
    Regularized {
        weights,
        input_scale,
        output_scale,
    }
}

fn signs(len: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..len)
        .map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 })
        .collect()
}

fn rms(values: &[f32]) -> f32 {
    let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
    (squares / values.len() as f64).sqrt() as f32
}

/// Mean of the values that are not zero; zero if all are.
fn mean(values: &[f32]) -> f32 {
    let count = values.iter().filter(|v| **v != 0.0).count();
    let sum: f64 = values.iter().map(|v| f64::from(*v)).sum();
    (sum / count.max(1) as f64) as f32
}

/// The part of each block of [`ROTATION`] channels that is not zero. A rotation spreads its weights over the whole block, so
/// that their variance falls to this part of what it was.
fn fill(rms: &[f32]) -> Vec<f32> {
    let live = |block: &[f32]| block.iter().filter(|rms| **rms > 0.0).count();
    rms.chunks(ROTATION)
        .map(|block| live(block) as f32 / ROTATION as f32)
        .collect()
}

fn few_channels_dominate(activations: &[f32]) -> bool {
    let mut sorted: Vec<f64> = activations.iter().map(|a| f64::from(*a)).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let largest: f64 = sorted.iter().take(sorted.len() / DOMINANT_CHANNELS).sum();
    largest >= DOMINANT_PART * sorted.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn example() -> DMatrix<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut weights = DMatrix::from_fn(256, 128, |row, column| {
            let size = 0.02 * (1.0 + row as f32 / 64.0) * (1.0 + column as f32 / 32.0);
            size * (rng.random::<f32>() - 0.5)
        });
        weights.row_mut(3).fill(0.0);
        weights.column_mut(5).fill(0.0);
        weights
    }

    #[test]
    fn the_parts_multiply_to_the_whole() {
        let weights = example();
        for out_scales in [OutScales::Always, OutScales::Never, OutScales::Auto] {
            let parts = regularize(
                &weights,
                None,
                out_scales,
                &mut ChaCha8Rng::seed_from_u64(2),
            );
            let mut product = parts.weights.clone();
            hadamard::rotate_rows(&mut product, ROTATION);
            hadamard::rotate_columns(&mut product, ROTATION);
            for (column, output) in parts.output_scale.iter().enumerate() {
                for (row, input) in parts.input_scale.iter().enumerate() {
                    product[(row, column)] *= input * output;
                }
            }
            assert!((&product - &weights).amax() < 1e-6 * weights.amax());
        }
    }

    #[test]
    fn weights_come_out_with_unit_variance_and_dead_outputs_with_scale_zero() {
        let parts = regularize(
            &example(),
            None,
            OutScales::Always,
            &mut ChaCha8Rng::seed_from_u64(2),
        );
        let rms = rms(parts.weights.as_slice());
        assert!((rms - 1.0).abs() < 0.02, "{rms}");
        assert_eq!(parts.output_scale[5], 0.0);
        assert!(parts.input_scale.iter().all(|s| *s != 0.0));
        assert!(parts.weights.iter().all(|w| w.is_finite()));
    }

    #[test]
    fn padding_does_not_make_weights_smaller() {
        let full = example();
        let mut padded = DMatrix::zeros(384, 384);
        padded
            .view_mut((0, 0), (200, 100))
            .copy_from(&full.view((0, 0), (200, 100)));
        let parts = regularize(
            &padded,
            None,
            OutScales::Always,
            &mut ChaCha8Rng::seed_from_u64(2),
        );
        for rows in [0..128, 128..256] {
            let block = parts
                .weights
                .view((rows.start, 0), (128, 128))
                .clone_owned();
            let rms = rms(block.as_slice());
            assert!((rms - 1.0).abs() < 0.02, "{rms}");
        }
    }

    #[test]
    fn output_scales_are_left_out_where_few_channels_dominate() {
        let mut activations = vec![1.0; 256];
        assert!(!few_channels_dominate(&activations));
        activations[7] = 100.0;
        assert!(few_channels_dominate(&activations));
        let parts = regularize(
            &example(),
            Some(&activations),
            OutScales::Auto,
            &mut ChaCha8Rng::seed_from_u64(2),
        );
        assert!(
            parts
                .output_scale
                .iter()
                .all(|s| [0.0, 1.0, -1.0].contains(s))
        );
    }
}
