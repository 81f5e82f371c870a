use treillage_shaders::Specialization;

use crate::cache::Cache;
use crate::harness::{
    Device, Params, Random, assert_close, bytes, constant, device, specializations, text,
};

const POSITIONS: usize = 64;

/// `positions × dims`: cosines, then sines.
pub(crate) fn turns(dims: usize) -> Vec<f32> {
    let mut values = Vec::new();
    for position in 0..POSITIONS {
        let angle = |i: usize| position as f64 * 1e4f64.powf(-2.0 * i as f64 / dims as f64);
        values.extend((0..dims / 2).map(|i| angle(i).cos() as f32));
        values.extend((0..dims / 2).map(|i| angle(i).sin() as f32));
    }
    values
}

/// One head: norm if there are weights, then rotation.
pub(crate) fn turned(
    head: &[f32],
    norm: Option<&[f32]>,
    position: usize,
    dims: usize,
    split: bool,
) -> Vec<f64> {
    let mut head: Vec<f64> = match norm {
        Some(weight) => crate::norm::rms_norm(head, weight, 1e-6),
        None => head.iter().map(|&x| f64::from(x)).collect(),
    };
    for i in 0..dims / 2 {
        let angle = position as f64 * 1e4f64.powf(-2.0 * i as f64 / dims as f64);
        let (a, b) = if split {
            (i, i + dims / 2)
        } else {
            (2 * i, 2 * i + 1)
        };
        let (x, y) = (head[a], head[b]);
        head[a] = x * angle.cos() - y * angle.sin();
        head[b] = y * angle.cos() + x * angle.sin();
    }
    head
}

/// Queries with gates behind them.
fn behind(q: &[f32], gates: &[f32], head_dim: usize) -> Vec<f32> {
    let heads = q.chunks_exact(head_dim).zip(gates.chunks_exact(head_dim));
    heads.flat_map(|(q, gate)| [q, gate].concat()).collect()
}

/// Times the sigmoids of gates.
fn gate(heads: &mut [f64], gates: &[f32]) {
    for (value, gate) in heads.iter_mut().zip(gates) {
        *value /= 1.0 + (-f64::from(*gate)).exp();
    }
}

#[test]
fn gate_heads_multiplies_by_sigmoids() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "gate_heads") {
        let (heads, width) = (7, 40);
        let mut random = Random::new(17);
        let [q, gates, values] = [(); 3].map(|()| random.values(heads * width));
        let results = device.run(
            "gate_heads",
            &specialization,
            &[bytes(&behind(&q, &gates, width)), bytes(&values)],
            Params::default().u(width).u(heads * width).bytes(),
            [2, 4, 1],
        );
        let mut expected: Vec<f64> = values.iter().map(|&x| x.into()).collect();
        gate(&mut expected, &gates);
        assert_close("gated", &results.of::<f32>(1), &expected, 1e-6);
    }
}

#[test]
fn rope_append_norms_rotates_and_stores() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "rope_append") {
        let head_dim = constant(&specialization, "HEAD_DIM");
        let norm = text(&specialization, "NORM") == "true";
        let split = text(&specialization, "PAIRING") == "half_split";
        let gated = text(&specialization, "GATED") == "true";
        let form = text(&specialization, "CACHE");
        for (rows, heads, kv_heads, position, dims) in
            [(1, 4, 2, 0, head_dim), (3, 3, 1, 40, head_dim / 2)]
        {
            let capacity = 50;
            let mut random = Random::new(12);
            let q = random.values(rows * heads * head_dim);
            let k = random.values(rows * kv_heads * head_dim);
            let mut v = random.values(rows * kv_heads * head_dim);
            v[1] = 1e6;
            let norms = random.values(2 * head_dim);
            let mut cache = Cache::new(form, kv_heads, head_dim, capacity);
            let mut rows_of = Random::new(15);
            for at in 0..capacity {
                for h in 0..kv_heads {
                    let [k, v] = [(); 2].map(|()| rows_of.values(head_dim));
                    cache.set(h, at, &k, &v);
                }
            }
            let params = Params::default()
                .u(heads)
                .u(kv_heads)
                .u(capacity)
                .u(position)
                .u(dims)
                .f(1e-6);
            let results = device.run(
                "rope_append",
                &specialization,
                &[
                    if gated {
                        bytes(&behind(&q, &q, head_dim))
                    } else {
                        bytes(&q)
                    },
                    bytes(&k),
                    bytes(&v),
                    bytes(&norms),
                    bytes(&turns(dims)),
                    vec![0; 4 * q.len()],
                    cache.keys.clone(),
                    cache.values.clone(),
                ],
                params.bytes(),
                [heads + 2 * kv_heads, rows, 1],
            );
            let (q_norm, k_norm) = norms.split_at(head_dim);
            let mut rotated = Vec::new();
            for (i, head) in q.chunks_exact(head_dim).enumerate() {
                let norm = norm.then_some(q_norm);
                rotated.extend(turned(head, norm, position + i / heads, dims, split));
            }
            assert_close("q", &results.of::<f32>(5), &rotated, 2e-6);
            for (i, (k, v)) in k
                .chunks_exact(head_dim)
                .zip(v.chunks_exact(head_dim))
                .enumerate()
            {
                let (at, h) = (position + i / kv_heads, i % kv_heads);
                let k = turned(k, norm.then_some(k_norm), at, dims, split);
                let k: Vec<f32> = k.into_iter().map(|x| x as f32).collect();
                cache.set(h, at, &k, v);
            }
            cache.assert_close("rope_append", results.of(6), results.of(7));
        }
    }
}

/// A cache and the queries that look at it.
struct Case {
    rows: usize,
    group: usize,
    position: usize,
    scale: f32,
    q: Vec<f32>,
    cache: Cache,
}

impl Case {
    fn new(
        form: &str,
        rows: usize,
        group: usize,
        kv_heads: usize,
        head_dim: usize,
        position: usize,
    ) -> Self {
        let capacity = position + rows + 3;
        let mut random = Random::new(13);
        let mut cache = Cache::new(form, kv_heads, head_dim, capacity);
        for h in 0..kv_heads {
            for at in 0..capacity {
                let (k, mut v) = (random.values(head_dim), random.values(head_dim));
                if at >= position + rows {
                    // What is behind the context must not be seen.
                    v.fill(6e4);
                }
                cache.set(h, at, &k, &v);
            }
        }
        let q = random.values(rows * group * kv_heads * head_dim);
        Self {
            rows,
            group,
            position,
            scale: 0.4,
            q,
            cache,
        }
    }

    fn heads(&self) -> usize {
        self.group * self.cache.kv_heads
    }

    fn expected(&self) -> Vec<f64> {
        let head_dim = self.cache.head_dim;
        let (keys, values) = self.cache.decode(&self.cache.keys, &self.cache.values);
        let mut out = Vec::new();
        for (i, q) in self.q.chunks_exact(head_dim).enumerate() {
            let (row, kv) = (i / self.heads(), i % self.heads() / self.group);
            let key = |at: usize, d: usize| keys[self.cache.key(kv, at, d)];
            let scores: Vec<f64> = (0..=self.position + row)
                .map(|at| {
                    let products = (0..head_dim).map(|d| f64::from(q[d]) * key(at, d));
                    f64::from(self.scale) * products.sum::<f64>()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let value = |at: usize| values[self.cache.value(kv, at, d)];
                let total = weights.iter().enumerate();
                let total: f64 = total.map(|(at, w)| w * value(at)).sum();
                out.push(total / sum);
            }
        }
        out
    }

    fn decode(&self, device: &Device, specialization: &Specialization, splits: usize) -> Vec<f32> {
        let per_split = (self.position + self.rows).div_ceil(splits);
        let heads = self.heads();
        let params = Params::default()
            .u(heads)
            .u(self.cache.capacity)
            .u(self.position)
            .u(splits)
            .u(per_split)
            .f(self.scale);
        let parts = self.q.len() * splits;
        let results = device.run(
            "attention_decode",
            specialization,
            &[
                bytes(&self.q),
                self.cache.keys.clone(),
                self.cache.values.clone(),
                vec![0xff; 4 * parts],
                vec![0xff; 8 * self.rows * heads * splits],
            ],
            params.bytes(),
            [splits, self.cache.kv_heads, self.rows],
        );
        if splits == 1 {
            return results.of(3);
        }
        let combine = Specialization::new([("HEAD_DIM", self.cache.head_dim)]).with("GATED", false);
        let params = Params::default().u(heads).u(splits);
        let results = device.run(
            "attention_combine",
            &combine,
            &[
                bytes(&results.of::<f32>(3)),
                bytes(&results.of::<f32>(4)),
                vec![0; 4],
                vec![0; 4 * self.q.len()],
            ],
            params.bytes(),
            [heads, self.rows, 1],
        );
        results.of(3)
    }
}

#[test]
fn decoding_attends_whatever_the_split() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "attention_decode") {
        let head_dim = constant(&specialization, "HEAD_DIM");
        let group = constant(&specialization, "GROUP");
        let form = text(&specialization, "CACHE");
        for (rows, kv_heads, position) in [(1, 1, 0), (1, 2, 300), (3, 1, 64)] {
            let case = Case::new(form, rows, group, kv_heads, head_dim, position);
            let expected = case.expected();
            for splits in [1, 3] {
                let found = case.decode(device, &specialization, splits);
                let what = format!("decode {:?} {splits}", specialization.constants());
                assert_close(&what, &found, &expected, 5e-6);
            }
        }
    }
}

#[test]
fn prefill_attends_like_decoding() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "attention_prefill") {
        let head_dim = constant(&specialization, "HEAD_DIM");
        let group = constant(&specialization, "GROUP");
        let form = text(&specialization, "CACHE");
        for (rows, kv_heads, position) in [(1, 1, 0), (19, 2, 0), (33, 1, 70)] {
            let case = Case::new(form, rows, group, kv_heads, head_dim, position);
            let params = Params::default()
                .u(rows)
                .u(case.heads())
                .u(case.cache.capacity)
                .u(position)
                .f(case.scale);
            let results = device.run(
                "attention_prefill",
                &specialization,
                &[
                    bytes(&case.q),
                    case.cache.keys.clone(),
                    case.cache.values.clone(),
                    vec![0xff; 4 * case.q.len()],
                ],
                params.bytes(),
                [(rows * group).div_ceil(64), kv_heads, 1],
            );
            let what = format!("prefill {:?} {rows}", specialization.constants());
            // Weights are f16 between the products.
            assert_close(&what, &results.of::<f32>(3), &case.expected(), 4e-4);
        }
    }
}

#[test]
fn a_step_is_rotation_and_decoding_in_one() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "attention_step") {
        let head_dim = constant(&specialization, "HEAD_DIM");
        let group = constant(&specialization, "GROUP");
        let form = text(&specialization, "CACHE");
        let norm = text(&specialization, "NORM") == "true";
        let split_pairs = text(&specialization, "PAIRING") == "half_split";
        let gated = text(&specialization, "GATED") == "true";
        for (kv_heads, position, dims, splits, gathers) in [
            (2, 0, head_dim, 1, false),
            (2, 63, head_dim, 1, true),
            (1, 50, head_dim / 2, 3, false),
            (2, 50, head_dim / 2, 3, true),
            (1, 63, head_dim, 16, true),
        ] {
            let mut case = Case::new(form, 1, group, kv_heads, head_dim, position);
            let mut random = Random::new(14);
            let k = random.values(kv_heads * head_dim);
            let v = random.values(kv_heads * head_dim);
            let norms = random.values(2 * head_dim);
            let gates = random.values(case.q.len());
            let queries = match gated {
                true => behind(&case.q, &gates, head_dim),
                false => case.q.clone(),
            };
            let per_split = (position + 1).div_ceil(splits);
            let heads = case.heads();
            let params = Params::default()
                .u(heads)
                .u(case.cache.capacity)
                .u(position)
                .u(splits)
                .u(per_split)
                .f(case.scale)
                .u(dims)
                .f(1e-6)
                .u(queries.len())
                .u(queries.len() + k.len())
                .u(gathers.into());
            let stats = if splits == 1 { 0 } else { heads * splits * 2 };
            let results = device.run(
                "attention_step",
                &specialization,
                &[
                    bytes(&[&queries[..], &k, &v].concat()),
                    bytes(&norms),
                    bytes(&turns(dims)),
                    case.cache.keys.clone(),
                    case.cache.values.clone(),
                    vec![0xff; 4 * (case.q.len() * splits + stats)],
                    vec![0xff; 4 * case.q.len()],
                    vec![0; 4 * kv_heads],
                ],
                params.bytes(),
                [splits, kv_heads, 1],
            );
            assert_eq!(results.of::<u32>(7), vec![0; kv_heads], "counters");
            let found = if splits == 1 || gathers {
                results.of::<f32>(6)
            } else {
                let all = results.of::<f32>(5);
                let (parts, stats) = all.split_at(case.q.len() * splits);
                let params = Params::default().u(heads).u(splits);
                let combined = device.run(
                    "attention_combine",
                    &Specialization::new([("HEAD_DIM", head_dim)]).with("GATED", gated),
                    &[
                        bytes(parts),
                        bytes(stats),
                        bytes(&queries),
                        vec![0; 4 * case.q.len()],
                    ],
                    params.bytes(),
                    [heads, 1, 1],
                );
                combined.of(3)
            };
            // The same with a cache that has the token already.
            let (q_norm, k_norm) = norms.split_at(head_dim);
            let turn = |head: &[f32], weight| -> Vec<f32> {
                let turned = turned(head, norm.then_some(weight), position, dims, split_pairs);
                turned.into_iter().map(|x| x as f32).collect()
            };
            case.q = case
                .q
                .chunks_exact(head_dim)
                .flat_map(|head| turn(head, q_norm))
                .collect();
            for h in 0..kv_heads {
                let own = h * head_dim..(h + 1) * head_dim;
                let key = turn(&k[own.clone()], k_norm);
                case.cache.set(h, position, &key, &v[own]);
            }
            let what = format!("step {:?} {position}", specialization.constants());
            // In whole numbers, what lies in the middle of two may be either.
            let tolerance = if form == "f16" { 2e-4 } else { 4e-3 };
            let mut expected = case.expected();
            if gated {
                gate(&mut expected, &gates);
            }
            assert_close(&what, &found, &expected, tolerance);
            case.cache.assert_close(&what, results.of(3), results.of(4));
        }
    }
}
