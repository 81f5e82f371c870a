//! The ops in f64, written as their definitions.

use crate::{AttentionSpec, Routing};

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

/// `silu(gate) ∘ up`.
pub(super) fn swiglu(gate: &[f64], up: &[f64]) -> Vec<f64> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect()
}

/// The `top_k` experts of one token and their weights.
pub(super) fn route(logits: &[f64], routing: &Routing) -> Vec<(usize, f64)> {
    let exponentials: Vec<f64> = logits.iter().map(|x| x.exp()).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.truncate(routing.top_k);
    let total: f64 = if routing.normalize {
        order.iter().map(|&e| exponentials[e]).sum()
    } else {
        exponentials.iter().sum()
    };
    order
        .into_iter()
        .map(|e| (e, exponentials[e] / total))
        .collect()
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
        rotate(&normed, spec, position)
    };
    let mut out = Matrix::zeros(0, spec.heads * dim);
    for (t, q) in q.rows().enumerate() {
        for h in 0..spec.heads {
            let kv = h / (spec.heads / spec.kv_heads) * dim;
            let query = finish(
                &q[h * dim..][..dim],
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
                out.values.push(mixed / total);
            }
        }
    }
    out
}

/// One head, rotated to `position`.
fn rotate(head: &[f64], spec: &AttentionSpec, position: usize) -> Vec<f64> {
    let half = spec.rope.dims / 2;
    let mut out = head.to_vec();
    for i in 0..half {
        let exponent = -2.0 * i as f64 / spec.rope.dims as f64;
        let (sin, cos) = (position as f64 * spec.rope.theta.powf(exponent)).sin_cos();
        let (a, b) = (head[i], head[i + half]);
        out[i] = a * cos - b * sin;
        out[i + half] = b * cos + a * sin;
    }
    out
}
