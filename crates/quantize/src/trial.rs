//! Rotations, tried on tokens that were held back.

use std::sync::Arc;

use nalgebra::DMatrix;
use treillage_gptq::{Config, Rotation, choose_rotation};
use treillage_model::plan::{Input, LinearPlan};

use crate::{Error, Folded, statistics::Statistics};

/// Experts of a layer that speak for all of them.
const EXPERTS: usize = 8;

/// What inputs saw on two disjoint sets of calibration rows.
pub(crate) struct Split {
    /// What linears are encoded with.
    pub(crate) fit: Statistics,
    /// What their errors are measured with.
    pub(crate) held_out: Statistics,
}

/// All inputs of a kind are rotated alike: those of a layer's experts as one.
pub(crate) fn kind(input: Input) -> Input {
    match input {
        Input::Expert(_) => Input::Expert(0),
        Input::ExpertDown(_) => Input::ExpertDown(0),
        other => other,
    }
}

/// The relative error of `linears`, whose inputs are of one kind, for each of `candidates`: summed over the linears
/// that read an input, averaged over a layer's experts, of many those that saw most tokens. `None` if no tokens came
/// by. The inputs are what `split` saw times `gain`.
pub(crate) fn errors(
    source: &Folded<'_>,
    linears: &[&LinearPlan],
    split: &Split,
    gain: Option<&[f32]>,
    candidates: &[Rotation],
    config: &Config,
) -> Result<Option<Vec<f64>>, Error> {
    let mut inputs: Vec<&[&LinearPlan]> = linears
        .chunk_by(|a, b| a.input() == b.input())
        .filter(|linears| split.fit.tokens(linears[0].input()) > 0)
        .collect();
    inputs.sort_by_key(|linears| std::cmp::Reverse(split.fit.tokens(linears[0].input())));
    inputs.truncate(EXPERTS);
    let mut sums = vec![0.0; candidates.len()];
    let mut tried = 0;
    for linears in inputs {
        let input = linears[0].input();
        let (fit, held_out) = (split.fit.of(input)?, split.held_out.own(input));
        let (Some(fit), Some(held_out)) = (fit.hessian, held_out) else {
            continue;
        };
        let (fit, held_out) = match gain {
            None => (fit, held_out),
            Some(gain) => (Arc::new(scaled(&fit, gain)), scaled(&held_out, gain)),
        };
        let weights = linears.iter().map(|linear| matrix(source, linear));
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let weights: Vec<&DMatrix<f32>> = weights.iter().collect();
        let choice = choose_rotation(&weights, &fit, &held_out, candidates, config)?;
        for (candidate, sum) in candidates.iter().zip(&mut sums) {
            let error = choice.errors.iter().find(|(tried, _)| tried == candidate);
            *sum += error.map_or(f64::INFINITY, |(_, error)| *error);
        }
        tried += 1;
    }
    sums.iter_mut().for_each(|sum| *sum /= f64::from(tried));
    Ok((tried > 0).then_some(sums))
}

/// A larger rotation must be better by this factor than a smaller one, or none.
const MARGIN: f64 = 1.01;

/// The first of `candidates` whose error is close to the least.
pub(crate) fn best(candidates: &[Rotation], errors: &[f64]) -> Rotation {
    let least = errors.iter().copied().fold(f64::INFINITY, f64::min);
    let close = candidates
        .iter()
        .zip(errors)
        .find(|(_, error)| **error <= MARGIN * least);
    close.map_or(Rotation::None, |(rotation, _)| *rotation)
}

/// The moment of inputs that are multiplied by `gain`.
fn scaled(moment: &DMatrix<f32>, gain: &[f32]) -> DMatrix<f32> {
    DMatrix::from_fn(moment.nrows(), moment.ncols(), |i, j| {
        gain[i] * moment[(i, j)] * gain[j]
    })
}

/// The weights of `linear`, (in, out).
fn matrix(source: &Folded<'_>, linear: &LinearPlan) -> Result<DMatrix<f32>, Error> {
    let (weight, _) = source.linear(&linear.prefix)?;
    weight.check_finite()?;
    let (inputs, outputs) = (linear.shape.in_features, linear.shape.out_features);
    // Row-major `[out, in]` is column-major `(in, out)`.
    Ok(DMatrix::from_vec(inputs, outputs, weight.to_f32()))
}
