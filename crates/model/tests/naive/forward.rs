//! The architectures once more, in f64, a loop per index, from their published description.

use std::collections::BTreeMap;

use treillage_model::plan::Input;

use crate::files::{Sizes, Tensors};

/// One token's activations.
pub(crate) type Row = Vec<f64>;

/// What each linear read in each block and, last, in the head, one row per token with its routing weight.
pub(crate) type Trace = Vec<BTreeMap<Input, Vec<(f64, Row)>>>;

/// Logits after each token of `ids`.
pub(crate) fn logits(sizes: &Sizes, tensors: &Tensors, ids: &[u32]) -> (Vec<Row>, Trace) {
    let embedding = &tensors["model.embed_tokens.weight"].1;
    let hidden = sizes.hidden;
    let mut x: Vec<Row> = ids
        .iter()
        .map(|&id| embedding[id as usize * hidden..][..hidden].to_vec())
        .collect();
    let mut trace = Trace::new();
    for layer in 0..sizes.layers {
        let mut block = Block {
            sizes,
            tensors,
            layer,
            trace: BTreeMap::new(),
        };
        let attended = block.attention(&x);
        x = add(&x, &attended);
        let fed = block.feed_forward(&x);
        x = add(&x, &fed);
        trace.push(block.trace);
    }
    let head = if sizes.tied {
        "model.embed_tokens.weight"
    } else {
        "lm_head.weight"
    };
    let norm = &tensors["model.norm.weight"].1;
    let normed: Vec<Row> = x.iter().map(|row| rms(row, norm, sizes.epsilon)).collect();
    let logits = normed
        .iter()
        .map(|row| multiply(&tensors[head], row))
        .collect();
    let head_input = normed.into_iter().map(|row| (1.0, row)).collect();
    trace.push(BTreeMap::from([(Input::Head, head_input)]));
    (logits, trace)
}

struct Block<'a> {
    sizes: &'a Sizes,
    tensors: &'a Tensors,
    layer: usize,
    trace: BTreeMap<Input, Vec<(f64, Row)>>,
}

impl Block<'_> {
    fn tensor(&self, name: &str) -> &(Vec<usize>, Row) {
        &self.tensors[&format!("model.layers.{}.{name}.weight", self.layer)]
    }

    fn linear(&self, name: &str, x: &[f64]) -> Row {
        multiply(self.tensor(name), x)
    }

    fn norm(&self, name: &str, x: &[f64]) -> Row {
        rms(x, &self.tensor(name).1, self.sizes.epsilon)
    }

    fn record(&mut self, input: Input, weight: f64, row: &Row) {
        self.trace
            .entry(input)
            .or_default()
            .push((weight, row.clone()));
    }

    fn attention(&mut self, x: &[Row]) -> Vec<Row> {
        let Sizes {
            heads,
            kv_heads,
            head_dim,
            ..
        } = *self.sizes;
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (position, row) in x.iter().enumerate() {
            let n = self.norm("input_layernorm", row);
            self.record(Input::Attention, 1.0, &n);
            let rotated = |projection: &str, norm: &str| -> Vec<Row> {
                self.linear(projection, &n)
                    .chunks(head_dim)
                    .map(|head| rotate(&self.norm(norm, head), position, self.sizes.theta))
                    .collect()
            };
            q.push(rotated("self_attn.q_proj", "self_attn.q_norm"));
            k.push(rotated("self_attn.k_proj", "self_attn.k_norm"));
            v.push(self.linear("self_attn.v_proj", &n));
        }
        let mut output = Vec::new();
        for now in 0..x.len() {
            let mut concatenated = Row::new();
            for head in 0..heads {
                let kv = head / (heads / kv_heads);
                let scores: Row = (0..=now)
                    .map(|past| dot(&q[now][head], &k[past][kv]) / (head_dim as f64).sqrt())
                    .collect();
                let weights = softmax(&scores);
                for d in 0..head_dim {
                    let value = |past: usize| v[past][kv * head_dim + d];
                    concatenated.push((0..=now).map(|past| weights[past] * value(past)).sum());
                }
            }
            self.record(Input::AttentionOutput, 1.0, &concatenated);
            output.push(self.linear("self_attn.o_proj", &concatenated));
        }
        output
    }

    fn feed_forward(&mut self, x: &[Row]) -> Vec<Row> {
        x.iter()
            .map(|row| {
                let n = self.norm("post_attention_layernorm", row);
                self.record(Input::FeedForward, 1.0, &n);
                if self.sizes.is_sparse(self.layer).is_some() {
                    self.experts(&n)
                } else {
                    let (output, inner) = self.swiglu("mlp", &n);
                    self.record(Input::Down, 1.0, &inner);
                    output
                }
            })
            .collect()
    }

    fn experts(&mut self, n: &Row) -> Row {
        let moe = self.sizes.is_sparse(self.layer).unwrap();
        let probabilities = softmax(&self.linear("mlp.gate", n));
        let mut ranked: Vec<usize> = (0..moe.experts).collect();
        ranked.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        ranked.truncate(moe.top_k);
        let chosen: f64 = ranked.iter().map(|&e| probabilities[e]).sum();
        let scale = if moe.normalize { chosen } else { 1.0 };
        let mut sum = vec![0.0; n.len()];
        for e in ranked {
            let weight = probabilities[e] / scale;
            let (output, inner) = self.swiglu(&format!("mlp.experts.{e}"), n);
            self.record(Input::Expert(e), weight, n);
            self.record(Input::ExpertDown(e), weight, &inner);
            for (sum, value) in sum.iter_mut().zip(output) {
                *sum += weight * value;
            }
        }
        sum
    }

    fn swiglu(&self, name: &str, n: &[f64]) -> (Row, Row) {
        let gate = self.linear(&format!("{name}.gate_proj"), n);
        let up = self.linear(&format!("{name}.up_proj"), n);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let inner: Row = gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect();
        (self.linear(&format!("{name}.down_proj"), &inner), inner)
    }
}

fn add(a: &[Row], b: &[Row]) -> Vec<Row> {
    let sum = |(a, b): (&Row, &Row)| a.iter().zip(b).map(|(a, b)| a + b).collect();
    a.iter().zip(b).map(sum).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn multiply((shape, weight): &(Vec<usize>, Row), x: &[f64]) -> Row {
    weight.chunks(shape[1]).map(|row| dot(row, x)).collect()
}

fn rms(x: &[f64], weight: &[f64], epsilon: f64) -> Row {
    let root = (dot(x, x) / x.len() as f64 + epsilon).sqrt();
    x.iter().zip(weight).map(|(x, w)| x / root * w).collect()
}

fn softmax(x: &[f64]) -> Row {
    let weights: Row = x.iter().map(|x| x.exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

fn rotate(head: &[f64], position: usize, theta: f64) -> Row {
    let half = head.len() / 2;
    let mut rotated = head.to_vec();
    for i in 0..half {
        let angle = position as f64 * theta.powf(-(2.0 * i as f64) / head.len() as f64);
        let (a, b) = (head[i], head[i + half]);
        rotated[i] = a * angle.cos() - b * angle.sin();
        rotated[i + half] = b * angle.cos() + a * angle.sin();
    }
    rotated
}
