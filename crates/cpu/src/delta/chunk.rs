//! The rule for many tokens, a chunk of them at a time (Parallelizing Linear Transformers with the Delta Rule, arXiv
//! 2406.06484, §3; with decay as in arXiv 2412.06464, §3.3).
//!
//! In a chunk let `G_i` be the sum of the logarithms of decay up to token `i`. What its tokens write, `U`, satisfies
//! `(I + A) U = β ∘ (V − e^G ∘ K S)` with `A_ij = β_i (k_i · k_j) e^(G_i − G_j)` below the diagonal, so that substitution
//! gives it row by row. Only differences of `G` are made powers of e, and none of them is positive.

use treillage_linalg::{Parallelism, View, ViewMut, gemm};
use treillage_trellis::lanes::{Isa, Kernel, Lanes};

use super::head::Sequence;

/// Tokens of a chunk.
const CHUNK: usize = 64;

/// As [`steps`](super::head::steps), chunk by chunk.
pub(super) fn chunks(isa: Isa, sequence: &Sequence<'_>, state: &mut [f32], out: &mut [f32]) {
    let (dk, dv) = (sequence.key_dim, sequence.value_dim);
    for (chunk, out) in out.chunks_mut(CHUNK * dv).enumerate() {
        let (first, tokens) = (chunk * CHUNK, out.len() / dv);
        let part = Sequence {
            q: &sequence.q[first * dk..][..tokens * dk],
            k: &sequence.k[first * dk..][..tokens * dk],
            v: &sequence.v[first * dv..][..tokens * dv],
            decay: &sequence.decay[first..][..tokens],
            beta: &sequence.beta[first..][..tokens],
            key_dim: dk,
            value_dim: dv,
        };
        one(isa, &part, state, out);
    }
}

fn one(isa: Isa, sequence: &Sequence<'_>, state: &mut [f32], out: &mut [f32]) {
    let (dk, dv, beta) = (sequence.key_dim, sequence.value_dim, sequence.beta);
    let tokens = beta.len();
    // In f64: their differences are small where they matter, and they are not.
    let mut total = 0.0;
    let sums: Vec<f64> = sequence
        .decay
        .iter()
        .map(|&decay| {
            total += f64::from(decay);
            total
        })
        .collect();
    let power = |exponent: f64| (exponent as f32).exp();
    let product = |a: View<'_>, b: View<'_>, rows: usize, cols: usize| {
        let mut c = vec![0.0; rows * cols];
        let out = ViewMut::row_major(&mut c, rows, cols);
        gemm(1.0, a, b, 0.0, out, Parallelism::Sequential);
        c
    };
    let q = View::row_major(sequence.q, tokens, dk);
    let k = View::row_major(sequence.k, tokens, dk);
    let mut among = product(k, k.transpose(), tokens, tokens);
    let mut scores = product(q, k.transpose(), tokens, tokens);
    for i in 0..tokens {
        let rows = i * tokens..(i + 1) * tokens;
        let (among, scores) = (&mut among[rows.clone()], &mut scores[rows]);
        for j in 0..=i {
            let factor = power(sums[i] - sums[j]);
            among[j] *= beta[i] * factor;
            scores[j] *= factor;
        }
        scores[i + 1..].fill(0.0);
    }

    let before = View::row_major(state, dk, dv);
    let mut written = product(k, before, tokens, dv);
    let read = product(q, before, tokens, dv);
    for i in 0..tokens {
        let factor = power(sums[i]);
        let row = i * dv..(i + 1) * dv;
        for (u, v) in written[row.clone()]
            .iter_mut()
            .zip(&sequence.v[row.clone()])
        {
            *u = beta[i] * (v - factor * *u);
        }
        for (out, read) in out[row.clone()].iter_mut().zip(&read[row]) {
            *out = factor * read;
        }
    }
    isa.run(Substitute {
        lower: &among,
        rows: &mut written,
        width: dv,
    });
    let written = View::row_major(&written, tokens, dv);
    let scores = View::row_major(&scores, tokens, tokens);
    let out = ViewMut::row_major(out, tokens, dv);
    gemm(1.0, scores, written, 1.0, out, Parallelism::Sequential);

    let mut keys = sequence.k.to_vec();
    for (key, sum) in keys.chunks_exact_mut(dk).zip(&sums) {
        let factor = power(total - sum);
        key.iter_mut().for_each(|x| *x *= factor);
    }
    let factor = power(total);
    state.iter_mut().for_each(|s| *s *= factor);
    let keys = View::row_major(&keys, tokens, dk).transpose();
    let state = ViewMut::row_major(state, dk, dv);
    gemm(1.0, keys, written, 1.0, state, Parallelism::Sequential);
}

/// Solves `(I + L) X = rows` in their place, with `L` what is below the diagonal of `lower`.
struct Substitute<'a> {
    lower: &'a [f32],
    rows: &'a mut [f32],
    width: usize,
}

impl Kernel for Substitute<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Substitute { lower, rows, width } = self;
        let count = rows.len() / width;
        for i in 1..count {
            let (done, rest) = rows.split_at_mut(i * width);
            let row = &mut rest[..width];
            for (factor, done) in lower[i * count..][..i].iter().zip(done.chunks_exact(width)) {
                for (x, done) in row.iter_mut().zip(done) {
                    *x -= factor * done;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::head::steps;
    use super::*;

    /// States that hardly fade, that fade, and that are gone at once; writes that cancel what was written.
    #[test]
    fn chunks_are_steps() {
        let (dk, dv, tokens) = (24, 16, 150);
        let value = |i: usize| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0;
        let unit = |seed: usize| -> Vec<f32> {
            let mut rows: Vec<f32> = (0..tokens * dk).map(|i| value(i + seed)).collect();
            for row in rows.chunks_exact_mut(dk) {
                let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x /= length);
            }
            rows
        };
        for rate in [0.001, 0.5, 60.0] {
            let (q, k) = (unit(1), unit(2));
            let v: Vec<f32> = (0..tokens * dv).map(|i| value(i + 3)).collect();
            let decay: Vec<f32> = (0..tokens).map(|i| -rate * (1.0 + value(i))).collect();
            let beta: Vec<f32> = (0..tokens).map(|i| 0.5 + 0.49 * value(i + 4)).collect();
            let sequence = Sequence {
                q: &q,
                k: &k,
                v: &v,
                decay: &decay,
                beta: &beta,
                key_dim: dk,
                value_dim: dv,
            };
            let before: Vec<f32> = (0..dk * dv).map(value).collect();
            let run = |f: fn(Isa, &Sequence<'_>, &mut [f32], &mut [f32])| {
                let (mut state, mut out) = (before.clone(), vec![0.0; tokens * dv]);
                f(Isa::best(), &sequence, &mut state, &mut out);
                [state, out]
            };
            for (fast, slow) in run(chunks).iter().zip(&run(steps)) {
                for (a, b) in fast.iter().zip(slow) {
                    assert!((a - b).abs() < 1e-5, "{a} and {b} at rate {rate}");
                }
            }
        }
    }
}
