//! What watched layers gather.

use treillage_gptq::{Format, IntBits};
use treillage_linalg::Hessian;
use treillage_trellis::Codebook;

use super::grouped::Make;
use super::latent::Latents;
use super::layer::{Layer, Storage, shape};
use super::networks::Routed;
use super::noise::Noise;
use super::reference::{Matrix, rms_norm};
use super::{Failure, compare, ensure};
use crate::{MixerSpec, Quantization, RouteWeighting, Routing, SwiGlu};

const EPSILON: f32 = 1e-6;
const STORAGES: [Storage; 3] = [
    Storage::Bf16,
    Storage::Trellis(4, Codebook::Mul1),
    Storage::Grouped(Make::new(Format::Int(IntBits::Four))),
];

/// Rows and their weights, as a backend should have gathered them.
#[derive(Default)]
struct Gathered {
    rows: Vec<(Vec<f64>, f64)>,
}

impl Gathered {
    fn of(rows: &Matrix) -> Self {
        Self {
            rows: rows.rows().map(|row| (row.to_vec(), 1.0)).collect(),
        }
    }

    fn compare(&self, what: &str, found: &Hessian, tolerance: f64) -> Result<(), Failure> {
        let n = found.features();
        let count: f64 = self.rows.iter().map(|(_, weight)| weight).sum();
        let close = (found.count() - count).abs() <= tolerance * count;
        ensure(close, || {
            format!("{what}: expected {count} tokens, found {}", found.count())
        })?;
        let mut mean = vec![0.0; n * n];
        for (row, weight) in &self.rows {
            for i in 0..n {
                for j in 0..n {
                    mean[i * n + j] += weight * row[i] * row[j] / count;
                }
            }
        }
        compare(what, &mean, found.mean().as_slice(), tolerance)
    }
}

/// A watched linear gathers its normed input, every batch of it, and computes as before.
pub fn watched_linears_gather_their_input<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let width = 70;
    for storage in STORAGES {
        let mut noise = Noise::new(40);
        let layer = Layer::new(&mut noise, storage, shape(width, 30), false)?;
        let (x, weight) = (noise.values(50 * width), noise.scales(width));
        let norm = backend.load_norm(weight.clone(), EPSILON)?;
        let mut linear = layer.load(backend)?;
        let moments = backend.new_moments(width)?;
        backend.watch(&mut linear, &moments)?;
        let normed = Matrix::new(&x, width).map_rows(|x| rms_norm(x, &weight, EPSILON));
        let mut found = Vec::new();
        for x in [&x[..20 * width], &x[20 * width..]] {
            let x = backend.upload(x, width)?;
            let [y] = backend.norm_project(&x, &norm, [&linear])?;
            found.extend(backend.read(&y)?);
        }
        let expected = normed.map_rows(|x| layer.apply(x));
        let what = format!("watched linear in {storage:?}");
        compare(&what, &expected.values, &found, tolerance)?;
        Gathered::of(&normed).compare(&what, &backend.take_moments(&moments)?, tolerance)?;

        let x = backend.upload(&x, width)?;
        let residual = backend.upload(&[0.0; 50 * 30], 30)?;
        backend.project_add(&x, &linear, &residual)?;
        let plain = Matrix::new(&backend.read(&x)?, width);
        Gathered::of(&plain).compare(&what, &backend.take_moments(&moments)?, tolerance)?;
    }
    Ok(())
}

/// Linears that read one input and share moments gather it once.
pub fn shared_moments_count_once<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let width = 40;
    let mut noise = Noise::new(41);
    let layer = Layer::new(&mut noise, Storage::F32, shape(width, 20), false)?;
    let mut linears = [
        layer.load(backend)?,
        layer.load(backend)?,
        layer.load(backend)?,
    ];
    let moments = backend.new_moments(width)?;
    for linear in &mut linears {
        backend.watch(linear, &moments)?;
    }
    let x = noise.values(7 * width);
    let norm = backend.load_norm(vec![1.0; width], EPSILON)?;
    let [a, b, c] = &linears;
    backend.norm_project(&backend.upload(&x, width)?, &norm, [a, b, c])?;
    let normed = Matrix::new(&x, width).map_rows(|x| rms_norm(x, &vec![1.0; width], EPSILON));
    Gathered::of(&normed).compare(
        "three linears that share moments",
        &backend.take_moments(&moments)?,
        tolerance,
    )
}

/// A watched network gathers the normed input and what down reads.
pub fn watched_networks_gather_their_inputs<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let (width, intermediate) = (50, 70);
    for storage in STORAGES {
        let mut noise = Noise::new(42);
        let network = SwiGlu::random(&mut noise, storage, shape(width, intermediate))?;
        let (x, weight) = (noise.values(30 * width), noise.scales(width));
        let norm = backend.load_norm(weight.clone(), EPSILON)?;
        let mut loaded = network.load(backend)?;
        let input = backend.new_moments(width)?;
        let down = backend.new_moments(intermediate)?;
        backend.watch(&mut loaded.gate, &input)?;
        backend.watch(&mut loaded.up, &input)?;
        backend.watch(&mut loaded.down, &down)?;
        backend.mlp(&backend.upload(&x, width)?, &norm, &loaded)?;
        let normed = Matrix::new(&x, width).map_rows(|x| rms_norm(x, &weight, EPSILON));
        let hidden = normed.map_rows(|x| network.hidden(x));
        for (what, rows, moments) in [("input", normed, input), ("hidden", hidden, down)] {
            let found = backend.take_moments(&moments)?;
            Gathered::of(&rows).compare(what, &found, tolerance)?;
        }
    }
    Ok(())
}

/// Each expert gathers the tokens routed to it, by weight if asked to; one without tokens gathers nothing.
pub fn watched_experts_gather_their_tokens<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let count = 12;
    for weighting in [RouteWeighting::Uniform, RouteWeighting::Squared] {
        let routing = Routing::softmax(2, true);
        let routed = Routed::new(Storage::Bf16, count, routing)?;
        let mut experts = routed.load(backend)?;
        // Some experts are left out, at other places of inputs than of downs.
        let moments = |width: usize, without: usize| -> Result<Vec<Option<B::Moments>>, Failure> {
            (0..count)
                .map(|expert| match expert % 5 == without {
                    true => Ok(None),
                    false => Ok(Some(backend.new_moments(width)?)),
                })
                .collect()
        };
        let (inputs, downs) = (moments(routed.width, 1)?, moments(routed.intermediate, 3)?);
        backend.watch_experts(&mut experts, &inputs, &downs, weighting)?;
        let x = Noise::new(43).values(9 * routed.width);
        routed.run(backend, &x, &experts)?;

        let mut expected: Vec<[Gathered; 2]> = Vec::new();
        expected.resize_with(count, Default::default);
        for x in Matrix::new(&x, routed.width).rows() {
            let (normed, routes) = routed.route(x);
            for (expert, weight) in routes {
                let weight = match weighting {
                    RouteWeighting::Uniform => 1.0,
                    RouteWeighting::Squared => weight * weight,
                };
                let hidden = routed.experts[expert].hidden(&normed);
                expected[expert][0].rows.push((normed.clone(), weight));
                expected[expert][1].rows.push((hidden, weight));
            }
        }
        for (expert, [input, down]) in expected.iter().enumerate() {
            let found = [&inputs[expert], &downs[expert]];
            for ((what, expected), found) in [("input", input), ("hidden", down)].iter().zip(found)
            {
                let Some(found) = found else { continue };
                let found = backend.take_moments(found)?;
                if expected.rows.is_empty() {
                    ensure(found.count() == 0.0, || {
                        format!("expert {expert} without tokens gathered some")
                    })?;
                } else {
                    let what = format!("{what} of expert {expert}, {weighting:?}");
                    expected.compare(&what, &found, tolerance)?;
                }
            }
        }
    }
    Ok(())
}

/// A shared expert gathers every token.
pub fn watched_shared_experts_gather_every_token<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let storage = Storage::Bf16;
    let routed = Routed::new(storage, 4, Routing::softmax(2, true))?.shared(
        storage,
        70,
        Some(Storage::Bf16),
    )?;
    let Some(shared) = &routed.shared else {
        return Ok(());
    };
    let mut network = shared.network.load(backend)?;
    let (input, down) = (backend.new_moments(routed.width)?, backend.new_moments(70)?);
    backend.watch(&mut network.gate, &input)?;
    backend.watch(&mut network.down, &down)?;
    let x = Noise::new(45).values(9 * routed.width);
    routed.run_beside(backend, &x, &routed.load(backend)?, Some(&network))?;
    let normed = Matrix::new(&x, routed.width).map_rows(|x| routed.route(x).0);
    let hidden = normed.map_rows(|x| shared.network.hidden(x));
    for (what, rows, moments) in [("input", normed, input), ("hidden", hidden, down)] {
        let what = format!("{what} of a shared expert");
        Gathered::of(&rows).compare(&what, &backend.take_moments(&moments)?, tolerance)?;
    }
    Ok(())
}

/// A watched expansion gathers the latents it makes keys and values of.
pub fn watched_expansions_gather_latents<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    for tokens in [1, 30] {
        let sequence = Latents::new(tokens, Storage::Bf16)?;
        let mut expansion = sequence.load(backend)?;
        let moments = backend.new_moments(sequence.spec.rank)?;
        backend.watch_expansion(&mut expansion, &moments)?;
        let mut cache = backend.new_cache(&MixerSpec::Latent(sequence.spec), tokens)?;
        sequence.attend(backend, &expansion, 0..tokens, &mut cache)?;
        let (_, latents) = sequence.expected();
        let what = format!("latents of {tokens} tokens");
        Gathered::of(&latents).compare(&what, &backend.take_moments(&moments)?, tolerance)?;
    }
    Ok(())
}

/// Moments are empty once taken.
pub fn taken_moments_start_anew<B: Quantization>(
    backend: &B,
    tolerance: f64,
) -> Result<(), Failure> {
    let mut noise = Noise::new(44);
    let layer = Layer::new(&mut noise, Storage::F32, shape(30, 10), false)?;
    let mut linear = layer.load(backend)?;
    let moments = backend.new_moments(30)?;
    backend.watch(&mut linear, &moments)?;
    let run = |x: &[f32]| -> Result<Hessian, Failure> {
        let residual = backend.upload(&vec![0.0; x.len() / 3], 10)?;
        backend.project_add(&backend.upload(x, 30)?, &linear, &residual)?;
        Ok(backend.take_moments(&moments)?)
    };
    run(&noise.values(8 * 30))?;
    let x = noise.values(5 * 30);
    Gathered::of(&Matrix::new(&x, 30)).compare("moments taken twice", &run(&x)?, tolerance)?;
    let empty = backend.take_moments(&moments)?.count();
    ensure(empty == 0.0, || {
        format!("{empty} tokens in moments just taken")
    })
}
