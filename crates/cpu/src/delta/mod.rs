//! The gated delta rule (Gated Delta Networks, arXiv 2412.06464), with the convolution before it and the norm behind.

mod cache;
mod chunk;
mod head;
mod step;

use rayon::prelude::*;
use treillage_backend::{DeltaInputs, DeltaSpec, DeltaWeights, Error};
use treillage_trellis::lanes::Isa;

pub(crate) use cache::DeltaCache;
use head::KeyHead;

use crate::blocks::{Blocks, Output};
use crate::norm::Norm;
use crate::tensor::Tensor;

/// What a gated DeltaNet has beside its linears.
pub struct DeltaRule {
    spec: DeltaSpec,
    /// Key head by key head, and in it tap by tap: a factor per channel, in the projection's order.
    taps: Vec<f32>,
    /// `−e^log_rate` of each value head.
    rates: Vec<f32>,
    time_bias: Vec<f32>,
    norm: Norm,
}

impl DeltaRule {
    pub(crate) fn new(weights: DeltaWeights, spec: &DeltaSpec) -> Result<Self, Error> {
        weights.check(spec)?;
        let mut taps = Vec::with_capacity(weights.conv.len());
        for key_head in 0..spec.key_heads {
            let [keys, values] = [spec.key_dim, spec.group() * spec.value_dim];
            let query = key_head * keys;
            let key = spec.keys() + query;
            let value = 2 * spec.keys() + key_head * values;
            let channels = [query..query + keys, key..key + keys, value..value + values];
            for tap in 0..spec.kernel {
                let channels = channels.iter().cloned().flatten();
                taps.extend(channels.map(|channel| weights.conv[channel * spec.kernel + tap]));
            }
        }
        Ok(Self {
            spec: *spec,
            taps,
            rates: weights.log_rate.iter().map(|rate| -rate.exp()).collect(),
            time_bias: weights.time_bias,
            norm: Norm::new(weights.norm, weights.epsilon),
        })
    }
}

/// The rule over new tokens, each key head by itself.
pub(crate) fn delta_rule(
    isa: Isa,
    inputs: &DeltaInputs<'_, Tensor>,
    rule: &DeltaRule,
    spec: &DeltaSpec,
    cache: &mut DeltaCache,
) -> Result<Tensor, Error> {
    let DeltaInputs { qkvz, ba } = inputs;
    let tokens = qkvz.rows();
    let sizes = [
        (
            "width of a delta rule's projection",
            spec.projected(),
            qkvz.cols(),
        ),
        (
            "width of a delta rule's gates",
            2 * spec.value_heads,
            ba.cols(),
        ),
        ("tokens of a delta rule's gates", tokens, ba.rows()),
    ];
    for (what, expected, found) in sizes {
        Error::check_shape(what, expected, found)?;
    }
    if rule.spec != *spec {
        return Err(Error::WrongCache("a delta rule of this size"));
    }
    cache.check(spec, tokens)?;

    let mut out = Tensor::zeros(tokens, spec.values());
    let output = Output {
        cols: out.cols(),
        values: out.values_mut(),
    };
    let state = &mut cache.state;
    let channels = 2 * spec.key_dim + spec.group() * spec.value_dim;
    let mut blocks = Blocks::new(output, spec.group() * spec.value_dim);
    let mut heads: Vec<KeyHead<'_>> = Vec::with_capacity(spec.key_heads);
    let matrices = state
        .matrices
        .chunks_exact_mut(spec.state() / spec.key_heads);
    // A kernel of a single tap has no tail.
    let mut tails = state
        .tail
        .chunks_exact_mut(((spec.kernel - 1) * channels).max(1));
    for (number, (matrices, out)) in matrices.zip(blocks.iter_mut()).enumerate() {
        heads.push(KeyHead {
            rule,
            number,
            qkvz,
            ba,
            tail: tails.next().unwrap_or_default(),
            matrices,
            out,
        });
    }
    heads
        .into_par_iter()
        .with_max_len(1)
        .for_each(|head| head.run(isa));
    state.len += tokens;
    Ok(out)
}
