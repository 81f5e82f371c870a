//! The original with errors like those of quantization.

use std::collections::HashMap;

use treillage_backend::{DenseWeights, LinearShape, LinearWeights};
use treillage_model::{Weights, dense_weights, plan::LinearPlan};

use crate::{Folded, fold::edited, hash};

/// A model in which some linears have random errors.
///
/// Those of an input channel are a given part of its weights' mean square. Their signs alone are random: that has the
/// variance of any other noise and costs a bit of randomness.
pub(crate) struct Noisy<'a> {
    source: &'a Folded<'a>,
    noisy: HashMap<&'a str, LinearShape>,
    relative: f64,
}

impl<'a> Noisy<'a> {
    /// `source` with errors in `linears`, of mean square `relative` to their weights'.
    pub(crate) fn new(source: &'a Folded<'a>, linears: &[&'a LinearPlan], relative: f64) -> Self {
        let noisy = linears.iter().map(|l| (l.prefix.as_str(), l.shape));
        Self {
            source,
            noisy: noisy.collect(),
            relative,
        }
    }
}

/// The mean square of the weights of each input channel; `weights` are `[out, in]`, row-major.
pub(crate) fn channel_power(weights: &[f32], inputs: usize) -> Vec<f64> {
    let mut power = vec![0.0; inputs];
    for row in weights.chunks_exact(inputs) {
        for (sum, w) in power.iter_mut().zip(row) {
            *sum += f64::from(*w).powi(2);
        }
    }
    let outputs = (weights.len() / inputs).max(1) as f64;
    power.iter_mut().for_each(|sum| *sum /= outputs);
    power
}

fn add_noise(mut weights: Vec<f32>, inputs: usize, relative: f64, seed: u64) -> Vec<f32> {
    let power = channel_power(&weights, inputs).into_iter();
    let sizes: Vec<f32> = power.map(|p| (relative * p).sqrt() as f32).collect();
    let mut state = seed;
    for row in weights.chunks_exact_mut(inputs) {
        for (row, sizes) in row.chunks_mut(64).zip(sizes.chunks(64)) {
            let mut signs = splitmix(&mut state);
            for (w, size) in row.iter_mut().zip(sizes) {
                *w += if signs & 1 == 0 { *size } else { -size };
                signs >>= 1;
            }
        }
    }
    weights
}

/// The next 64 random bits (SplitMix64).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Weights for Noisy<'_> {
    fn linear(
        &self,
        prefix: &str,
        shape: LinearShape,
    ) -> Result<LinearWeights, treillage_model::Error> {
        let Some(LinearShape { in_features, .. }) = self.noisy.get(prefix) else {
            return Weights::linear(self.source, prefix, shape);
        };
        let noisy = self.source.linear(prefix).and_then(|(weight, bias)| {
            let seed = hash::fnv1a(prefix.as_bytes());
            let name = format!("{prefix}.weight");
            let weight = edited(&weight, &name, |values| {
                add_noise(values, *in_features, self.relative, seed)
            })?;
            Ok((weight, bias))
        });
        let (weight, bias) = noisy.map_err(|e| self.source.as_model_error(e))?;
        let weight = dense_weights(&weight, shape.out_features, shape.in_features)?;
        Ok(LinearWeights::Dense { weight, bias })
    }

    fn dense(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<DenseWeights, treillage_model::Error> {
        Weights::dense(self.source, name, rows, cols)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, treillage_model::Error> {
        Weights::vector(self.source, name, len)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, treillage_model::Error> {
        Weights::values(self.source, name, shape)
    }

    fn has_linear(&self, prefix: &str) -> bool {
        Weights::has_linear(self.source, prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_asked_part_of_each_channel_and_of_either_sign() {
        let (inputs, outputs) = (70, 400);
        let weights: Vec<f32> = (0..inputs * outputs)
            .map(|i| ((i % inputs) as f32 + 1.0) * if i % 3 == 0 { -0.5 } else { 0.25 })
            .collect();
        let noisy = add_noise(weights.clone(), inputs, 0.04, 1);
        let errors: Vec<f32> = noisy.iter().zip(&weights).map(|(a, b)| a - b).collect();
        let (found, whole) = (
            channel_power(&errors, inputs),
            channel_power(&weights, inputs),
        );
        for (error, power) in found.iter().zip(whole) {
            assert!((error / power - 0.04).abs() < 1e-4, "{error} of {power}");
        }
        let positive = errors.iter().filter(|e| **e > 0.0).count() as f64;
        assert!((positive / errors.len() as f64 - 0.5).abs() < 0.02);
        assert_ne!(noisy, add_noise(weights, inputs, 0.04, 2));
    }
}
