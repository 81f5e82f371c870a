//! One key head and its value heads.

use rayon::prelude::*;
use treillage_trellis::lanes::{Isa, Kernel, Lanes};

use super::DeltaRule;
use super::chunk::chunks;
use super::step::Step;
use crate::math::{silu, sum};
use crate::tensor::Tensor;

/// Under the root of the length that queries and keys are divided by.
const EPSILON: f32 = 1e-6;
/// Tokens from which chunks are worth their products.
const MIN_CHUNKED: usize = 16;

/// A key head over new tokens.
pub(super) struct KeyHead<'a> {
    pub(super) rule: &'a DeltaRule,
    pub(super) number: usize,
    pub(super) qkvz: &'a Tensor,
    pub(super) ba: &'a Tensor,
    /// Of the convolution, `[kernel − 1, channels]`.
    pub(super) tail: &'a mut [f32],
    /// States of its value heads.
    pub(super) matrices: &'a mut [f32],
    /// For each token, outputs of its value heads.
    pub(super) out: &'a mut [&'a mut [f32]],
}

/// One value head over new tokens: rows of queries, keys and values, and for each token the logarithm of the decay, and
/// how much it writes.
pub(super) struct Sequence<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) decay: &'a [f32],
    pub(super) beta: &'a [f32],
    pub(super) key_dim: usize,
    pub(super) value_dim: usize,
}

impl KeyHead<'_> {
    pub(super) fn run(self, isa: Isa) {
        let spec = &self.rule.spec;
        let (dk, dv, group) = (spec.key_dim, spec.value_dim, spec.group());
        let (tokens, channels) = (self.qkvz.rows(), 2 * dk + group * dv);
        let width = channels + group * dv;
        let projected = |token: usize| &self.qkvz.row(token)[self.number * width..][..width];

        let taps = spec.kernel * channels;
        let taps = &self.rule.taps[self.number * taps..][..taps];
        let mut past = self.tail.to_vec();
        past.reserve(tokens * channels);
        for token in 0..tokens {
            past.extend_from_slice(&projected(token)[..channels]);
        }
        let (mut q, mut k) = (vec![0.0; tokens * dk], vec![0.0; tokens * dk]);
        let mut v = vec![0.0; group * tokens * dv];
        let mut row = vec![0.0; channels];
        for token in 0..tokens {
            isa.run(Convolve {
                window: &past[token * channels..][..spec.kernel * channels],
                taps,
                out: &mut row,
            });
            let (query, rest) = row.split_at_mut(dk);
            let (key, values) = rest.split_at_mut(dk);
            let scale = 1.0 / (dk as f32).sqrt();
            isa.run(Unit { row: query, scale });
            isa.run(Unit {
                row: key,
                scale: 1.0,
            });
            q[token * dk..][..dk].copy_from_slice(query);
            k[token * dk..][..dk].copy_from_slice(key);
            for (member, value) in values.chunks_exact(dv).enumerate() {
                v[(member * tokens + token) * dv..][..dv].copy_from_slice(value);
            }
        }
        self.tail.copy_from_slice(&past[tokens * channels..]);

        let mut given = vec![0.0; group * tokens * dv];
        let heads = given
            .par_chunks_exact_mut((tokens * dv).max(1))
            .zip(self.matrices.par_chunks_exact_mut(dk * dv))
            .enumerate();
        heads.with_max_len(1).for_each(|(member, (given, state))| {
            let head = self.number * group + member;
            let gates = |token: usize| {
                let ba = &self.ba.row(token)[2 * self.number * group..][..2 * group];
                (ba[member], ba[group + member])
            };
            let (rate, bias) = (self.rule.rates[head], self.rule.time_bias[head]);
            let decay = |token| rate * softplus(gates(token).1 + bias);
            let beta = |token| 1.0 / (1.0 + (-gates(token).0).exp());
            let sequence = Sequence {
                q: &q,
                k: &k,
                v: &v[member * tokens * dv..][..tokens * dv],
                decay: &(0..tokens).map(decay).collect::<Vec<f32>>(),
                beta: &(0..tokens).map(beta).collect::<Vec<f32>>(),
                key_dim: dk,
                value_dim: dv,
            };
            match tokens {
                MIN_CHUNKED.. => chunks(isa, &sequence, state, given),
                _ => steps(isa, &sequence, state, given),
            }
        });

        for (token, out) in self.out.iter_mut().enumerate() {
            for (member, out) in out.chunks_exact_mut(dv).enumerate() {
                out.copy_from_slice(&given[(member * tokens + token) * dv..][..dv]);
                self.rule.norm.apply_in_place(isa, out);
                let gate = &projected(token)[channels + member * dv..][..dv];
                isa.run(Gate { out, gate });
            }
        }
    }
}

/// The rule token by token: overwrites `out`, `[tokens, value_dim]`, and moves `state` on.
pub(super) fn steps(isa: Isa, sequence: &Sequence<'_>, state: &mut [f32], out: &mut [f32]) {
    let (dk, dv) = (sequence.key_dim, sequence.value_dim);
    let mut update = vec![0.0; dv];
    for (token, out) in out.chunks_exact_mut(dv).enumerate() {
        isa.run(Step {
            q: &sequence.q[token * dk..][..dk],
            k: &sequence.k[token * dk..][..dk],
            v: &sequence.v[token * dv..][..dv],
            decay: sequence.decay[token].exp(),
            beta: sequence.beta[token],
            state,
            update: &mut update,
            out,
        });
    }
}

/// `ln(1 + eˣ)`.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// `silu(Σ_j taps_j ∘ window_j)`, rows as wide as `out`.
struct Convolve<'a> {
    window: &'a [f32],
    taps: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Convolve { window, taps, out } = self;
        out.fill(0.0);
        let width = out.len();
        for (row, taps) in window.chunks_exact(width).zip(taps.chunks_exact(width)) {
            for ((out, x), tap) in out.iter_mut().zip(row).zip(taps) {
                *out += x * tap;
            }
        }
        for out in out {
            *out = silu(*out);
        }
    }
}

/// A row divided by its length, times `scale`.
struct Unit<'a> {
    row: &'a mut [f32],
    scale: f32,
}

impl Kernel for Unit<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let factor = self.scale / (sum(self.row, |x| x * x) + EPSILON).sqrt();
        for x in self.row {
            *x *= factor;
        }
    }
}

/// `out ∘ silu(gate)`.
struct Gate<'a> {
    out: &'a mut [f32],
    gate: &'a [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for (out, gate) in self.out.iter_mut().zip(self.gate) {
            *out *= silu(*gate);
        }
    }
}
