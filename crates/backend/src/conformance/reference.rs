//! The ops in f64, written as their definitions.

use crate::{
    AttentionSpec, DeltaSpec, DeltaWeights, GroupLimit, LatentSpec, Rope, RopePairing, Routing,
    Scoring,
};

/// A row-major matrix.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub(super) cols: usize,
    pub(super) values: Vec<f64>,
}

impl Matrix {
    pub(super) fn new(values: &[f32], cols: usize) -> Self {
        let values = values.iter().copied().map(f64::from).collect();
        Self { cols, values }
    }

    pub(super) fn zeros(rows: usize, cols: usize) -> Self {
        let values = vec![0.0; rows * cols];
        Self { cols, values }
    }

    pub(super) fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.cols)
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.cols..][..self.cols]
    }

    /// Applies `f` to each row; all results must be of one width.
    pub(super) fn map_rows(&self, f: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        let rows: Vec<Vec<f64>> = self.rows().map(f).collect();
        Self {
            cols: rows.first().map_or(0, Vec::len),
            values: rows.concat(),
        }
    }
}

/// `x / sqrt(mean(x²) + epsilon) ∘ weight`.
pub(super) fn rms_norm(x: &[f64], weight: &[f32], epsilon: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(epsilon)).sqrt();
    let weights = weight.iter().map(|&w| f64::from(w));
    x.iter().zip(weights).map(|(x, w)| x * factor * w).collect()
}

/// `W x + b` for `W` of shape `[out, in]`.
pub(super) fn linear(x: &[f64], weight: &Matrix, bias: &[f64]) -> Vec<f64> {
    let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    weight
        .rows()
        .zip(bias)
        .map(|(row, b)| dot(row) + b)
        .collect()
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `silu(gate) ∘ up`.
pub(super) fn swiglu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect()
}

/// The `top_k` experts of one token and their weights.
pub(super) fn route(logits: &[f64], routing: &Routing, correction: &[f32]) -> Vec<(usize, f64)> {
    let scores: Vec<f64> = match routing.scoring {
        Scoring::Softmax => {
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            logits.iter().map(|x| x.exp() / total).collect()
        }
        Scoring::Sigmoid => logits.iter().copied().map(sigmoid).collect(),
    };
    let corrected: Vec<f64> = (0..scores.len())
        .map(|e| scores[e] + correction.get(e).copied().map_or(0.0, f64::from))
        .collect();
    let descending = |of: &[f64]| {
        let mut order: Vec<usize> = (0..of.len()).collect();
        order.sort_by(|&a, &b| of[b].total_cmp(&of[a]));
        order
    };
    let mut order = descending(&corrected);
    if let Some(GroupLimit { groups, kept }) = routing.limit {
        let size = scores.len() / groups;
        let sums: Vec<f64> = corrected
            .chunks(size)
            .map(|group| {
                let best = descending(group);
                best.iter().take(2).map(|&e| group[e]).sum()
            })
            .collect();
        let best = &descending(&sums)[..kept];
        order.retain(|e| best.contains(&(e / size)));
    }
    order.truncate(routing.top_k);
    let total: f64 = order.iter().map(|&e| scores[e]).sum();
    let divisor = if routing.normalize { total } else { 1.0 };
    let scale = f64::from(routing.scale);
    let weigh = |e| (e, scores[e] / divisor * scale);
    order.into_iter().map(weigh).collect()
}

/// Weights and epsilon of the norms of query and key heads.
pub(super) type HeadNorms<'a> = Option<(&'a [f32], &'a [f32], f32)>;

/// Causal attention of a whole sequence from position 0 on.
pub(super) fn attention(
    q: &Matrix,
    k: &Matrix,
    v: &Matrix,
    norms: HeadNorms<'_>,
    spec: &AttentionSpec,
) -> Matrix {
    let dim = spec.head_dim;
    let finish = |head: &[f64], norm: Option<(&[f32], f32)>, position: usize| {
        let normed = norm.map_or_else(
            || head.to_vec(),
            |(weight, epsilon)| rms_norm(head, weight, epsilon),
        );
        rotate(&normed, &spec.rope, position)
    };
    let mut out = Matrix::zeros(0, spec.heads * dim);
    for (t, q) in q.rows().enumerate() {
        for h in 0..spec.heads {
            let kv = h / (spec.heads / spec.kv_heads) * dim;
            let start = h * q.len() / spec.heads;
            let query = finish(
                &q[start..][..dim],
                norms.map(|(q, _, epsilon)| (q, epsilon)),
                t,
            );
            let score = |s: usize| {
                let key = finish(
                    &k.row(s)[kv..][..dim],
                    norms.map(|(_, k, epsilon)| (k, epsilon)),
                    s,
                );
                let dot: f64 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
                (dot * f64::from(spec.scale)).exp()
            };
            let weights: Vec<f64> = (0..=t).map(score).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..dim {
                let mixed: f64 = (0..=t).map(|s| weights[s] * v.row(s)[kv + i]).sum();
                let gate = match spec.output_gate {
                    true => sigmoid(q[start + dim + i]),
                    false => 1.0,
                };
                out.values.push(mixed / total * gate);
            }
        }
    }
    out
}

/// One head, rotated to `position`.
fn rotate(head: &[f64], rope: &Rope, position: usize) -> Vec<f64> {
    let half = rope.dims / 2;
    let mut out = head.to_vec();
    for i in 0..half {
        let exponent = -2.0 * i as f64 / rope.dims as f64;
        let (sin, cos) = (position as f64 * rope.theta.powf(exponent)).sin_cos();
        let [first, second] = match rope.pairing {
            RopePairing::HalfSplit => [i, i + half],
            RopePairing::Interleaved => [2 * i, 2 * i + 1],
        };
        let (a, b) = (head[first], head[second]);
        out[first] = a * cos - b * sin;
        out[second] = b * cos + a * sin;
    }
    out
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Latent attention of a whole sequence from position 0 on, with all keys and values made: the output, and the normed
/// latents.
pub(super) fn latent_attention(
    q: &Matrix,
    latent: &Matrix,
    (norm, epsilon): (&[f32], f32),
    expand: impl Fn(&[f64]) -> Vec<f64>,
    spec: &LatentSpec,
) -> (Matrix, Matrix) {
    let (nope, of_head) = (spec.nope_dim, spec.nope_dim + spec.value_dim);
    let latents = latent.map_rows(|row| rms_norm(&row[..spec.rank], norm, epsilon));
    let rotated: Vec<Vec<f64>> = latent
        .rows()
        .enumerate()
        .map(|(t, row)| rotate(&row[spec.rank..], &spec.rope, t))
        .collect();
    let expanded = latents.map_rows(expand);
    let mut out = Matrix::zeros(0, spec.heads * spec.value_dim);
    for (t, q) in q.rows().enumerate() {
        for (h, q) in q.chunks(spec.query_dim()).enumerate() {
            let turned = rotate(&q[nope..], &spec.rope, t);
            let score = |s: usize| {
                let key = &expanded.row(s)[h * of_head..][..nope];
                let score = dot(&q[..nope], key) + dot(&turned, &rotated[s]);
                (score * f64::from(spec.scale)).exp()
            };
            let weights: Vec<f64> = (0..=t).map(score).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..spec.value_dim {
                let value = |s: usize| expanded.row(s)[h * of_head + nope + i];
                let mixed: f64 = (0..=t).map(|s| weights[s] * value(s)).sum();
                out.values.push(mixed / total);
            }
        }
    }
    (out, latents)
}

/// The gated delta rule over a whole sequence from its beginning on.
pub(super) fn delta_rule(
    qkvz: &Matrix,
    ba: &Matrix,
    weights: &DeltaWeights,
    spec: &DeltaSpec,
) -> Matrix {
    let (dk, dv, group) = (spec.key_dim, spec.value_dim, spec.group());
    let of_key_head = 2 * dk + 2 * group * dv;
    // Convolved channels of a token by their place in the projection.
    let convolved = |t: usize, place: usize, channel: usize| {
        let taps = &weights.conv[channel * spec.kernel..][..spec.kernel];
        let sum: f64 = (0..spec.kernel)
            .filter(|j| t + j + 1 >= spec.kernel)
            .map(|j| f64::from(taps[j]) * qkvz.row(t + j + 1 - spec.kernel)[place])
            .sum();
        silu(sum)
    };
    let unit = |x: Vec<f64>| -> Vec<f64> {
        let norm = (dot(&x, &x) + 1e-6).sqrt();
        x.iter().map(|x| x / norm).collect()
    };
    let mut states = vec![Matrix::zeros(dk, dv); spec.value_heads];
    let mut out = Matrix::zeros(0, spec.values());
    for t in 0..qkvz.rows().len() {
        for (h, state) in states.iter_mut().enumerate() {
            let (key_head, member) = (h / group, h % group);
            let first = key_head * of_key_head;
            let q = (0..dk).map(|i| convolved(t, first + i, key_head * dk + i));
            let k = (0..dk).map(|i| convolved(t, first + dk + i, spec.keys() + key_head * dk + i));
            let (q, k) = (unit(q.collect()), unit(k.collect()));
            let place = first + 2 * dk + member * dv;
            let v = (0..dv).map(|i| convolved(t, place + i, 2 * spec.keys() + h * dv + i));
            let v: Vec<f64> = v.collect();
            let z = &qkvz.row(t)[place + group * dv..][..dv];
            let ba = &ba.row(t)[2 * key_head * group..][..2 * group];
            let (b, a) = (ba[member], ba[group + member]);
            let rate = f64::from(weights.log_rate[h]).exp();
            let decay = (-rate * (1.0 + (a + f64::from(weights.time_bias[h])).exp()).ln()).exp();
            state.values.iter_mut().for_each(|s| *s *= decay);
            let column = |state: &Matrix, j: usize, by: &[f64]| -> f64 {
                (0..dk).map(|i| state.row(i)[j] * by[i]).sum()
            };
            let update: Vec<f64> = (0..dv)
                .map(|j| sigmoid(b) * (v[j] - column(state, j, &k)))
                .collect();
            for i in 0..dk {
                for j in 0..dv {
                    state.values[i * dv + j] += k[i] * update[j];
                }
            }
            let scale = (dk as f64).sqrt();
            let o: Vec<f64> = (0..dv).map(|j| column(state, j, &q) / scale).collect();
            let normed = rms_norm(&o, &weights.norm, weights.epsilon);
            out.values.extend(swiglu(z, &normed));
        }
    }
    out
}
