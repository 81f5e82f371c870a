//! Trellis codes made on the device.

use std::borrow::Cow;
use std::sync::Arc;

use half::f16;
use nalgebra::DMatrix;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use treillage_backend::{EncodeJob, LinearShape, Quantization};
use treillage_cpu::CpuBackend;
use treillage_gpu::quantize::{TileEncoder, Tuning, encode_trellis};
use treillage_gpu::{Context, Options};
use treillage_trellis::viterbi::{Effort, Encoder, encode_tile_whole};
use treillage_trellis::{Bits, Codebook, EncodeConfig, Preparation, TILE_WEIGHTS, padded, tile};

use crate::support::{each_mode, open};

type Tile = [f32; TILE_WEIGHTS];

fn gaussian(rng: &mut ChaCha8Rng) -> f32 {
    // Box–Muller.
    let (a, b): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
}

fn tiles(count: usize, scale: f32, seed: u64) -> Vec<Tile> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tile = || std::array::from_fn(|_| scale * gaussian(&mut rng));
    (0..count).map(|_| tile()).collect()
}

fn bits(k: usize) -> Bits {
    Bits::new(k).unwrap()
}

fn states(words: &[u16], bits: Bits) -> Vec<[u16; TILE_WEIGHTS]> {
    let words = words.chunks_exact(bits.words_per_tile());
    words
        .map(|words| tile::unpack_states(words, bits))
        .collect()
}

/// Squared error of what states stand for.
fn error(states: &[[u16; TILE_WEIGHTS]], tiles: &[Tile], codebook: Codebook) -> f64 {
    let values = states
        .as_flattened()
        .iter()
        .map(|&s| codebook.table()[usize::from(s)]);
    let errors = values.zip(tiles.as_flattened());
    errors
        .map(|(value, target)| f64::from(value - target).powi(2))
        .sum()
}

#[test]
fn walks_are_those_of_the_slow_search_up_to_four_bits() {
    each_mode(|context, mode| {
        for (k, lanes, shown) in [
            (1, 512, 4096),
            (2, 512, 4096),
            (3, 512, 4096),
            (3, 256, 2048),
            (4, 512, 2048),
            (3, 1024, 4096),
            (4, 1024, 4096),
        ] {
            let codebook = Codebook::ALL[k % 3];
            // One of them alone.
            let mut targets = tiles(3, 0.95, k as u64);
            // Outliers that no weight is near.
            targets[1].iter_mut().step_by(19).for_each(|t| *t *= 1e3);
            let tuning = Tuning {
                lanes,
                shown,
                halves: false,
            };
            let effort = Effort::ALL[lanes / 512];
            let encoder = TileEncoder::new(context, bits(k), codebook, effort, tuning).unwrap();
            let words = encoder.encode(context, targets.as_flattened()).unwrap();
            let expected: Vec<_> = targets
                .iter()
                .map(|tile| encode_tile_whole(tile, bits(k), codebook, effort).unwrap())
                .collect();
            let same = states(&words, bits(k)) == expected;
            assert!(same, "K = {k}, {lanes} lanes, {mode:?}");
        }
    });
}

#[test]
fn walks_close_and_err_as_little_as_the_cpus() {
    let Some(gpu) = open(Options::default()) else {
        return;
    };
    let context = Context::new(&gpu);
    // Above four bits both are one.
    let both = Bits::all().flat_map(|k| [true, false].map(|halves| (k, halves)));
    for (k, halves) in both.filter(|&(k, halves)| halves || k.get() <= 4) {
        let codebook = Codebook::ALL[k.get() % 3];
        let scale = [1.07, 0.98, 0.945, 0.905, 0.88, 0.83, 0.80, 0.775][k.get() - 1];
        let scale = if codebook == Codebook::Mul1 {
            scale
        } else {
            1.244 * scale
        };
        let mut targets = tiles(4, scale, 7);
        let effort = Effort::Best;
        let tuning = Tuning {
            halves,
            ..Tuning::default()
        };
        let encoder = TileEncoder::new(&context, k, codebook, effort, tuning).unwrap();
        let words = encoder.encode(&context, targets.as_flattened()).unwrap();
        let cpu = Encoder::new(k, codebook);
        let expected: Vec<_> = targets.iter().map(|tile| cpu.encode_tile(tile)).collect();
        let found = error(&states(&words, k), &targets, codebook);
        let expected = error(&expected, &targets, codebook);
        assert!(found < 1.005 * expected, "K = {k}: {found}, not {expected}");
        targets[0].fill(f32::NAN);
        targets[1].fill(-1e30);
        targets[2] = std::array::from_fn(|i| if i % 2 == 0 { 9.0 } else { -9.0 });
        let words = encoder.encode(&context, targets.as_flattened()).unwrap();
        for states in states(&words, k) {
            assert!(tile::is_closed_walk(&states, k), "K = {k}");
        }
    }
}

/// Linears of two sizes; those of the first with different Hessians, of which one is useless.
fn jobs() -> Vec<EncodeJob<EncodeConfig>> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut job = |number: u64, in_features, out_features| {
        let shape = LinearShape {
            in_features,
            out_features,
        };
        let factor = DMatrix::from_fn(in_features, in_features, |i, j| {
            gaussian(&mut rng) / 8.0 + f32::from(i == j)
        });
        let hessian = match number {
            0 => DMatrix::zeros(in_features, in_features),
            _ => &factor * factor.transpose(),
        };
        EncodeJob {
            name: format!("linear {number}"),
            weights: (0..shape.weights()).map(|_| gaussian(&mut rng)).collect(),
            shape,
            hessian: (number < 3).then(|| Arc::new(hessian)),
            config: EncodeConfig {
                // More effort is more of the same.
                effort: Effort::Fast,
                ..EncodeConfig::new(bits(4), Codebook::Mul1, number)
            },
        }
    };
    vec![
        job(0, 128, 128),
        job(1, 128, 128),
        job(2, 120, 128),
        job(3, 128, 120),
    ]
}

#[test]
fn linears_are_encoded_as_on_the_cpu() {
    let Some(gpu) = open(Options::default()) else {
        return;
    };
    let context = Context::new(&gpu);
    let together = encode_trellis(&context, jobs(), Tuning::default()).unwrap();
    let on_cpu = CpuBackend::default().encode_trellis(jobs()).unwrap();
    for ((job, found), expected) in jobs().into_iter().zip(&together).zip(&on_cpu) {
        let name = &job.name;
        let (report, cpu) = (&found.report, &expected.report);
        assert_eq!(
            (report.fallback, report.damping),
            (cpu.fallback, cpu.damping),
            "{name}"
        );
        let ratio = report.relative_error / cpu.relative_error;
        assert!((ratio - 1.0).abs() < 0.03, "{name}: {ratio}");
    }
}

/// What encoding `job` found so far, whose scale was settled by codes of `context`.
fn settled(context: &Context, job: &EncodeJob<EncodeConfig>) -> Preparation<'static> {
    let (rows, columns) = (job.shape.in_features, job.shape.out_features);
    let weights = DMatrix::from_vec(rows, columns, job.weights.clone());
    let hessian = job.hessian.as_deref().cloned();
    let hessian = hessian.map(|hessian| padded(Cow::Owned(hessian)));
    let weights = padded(Cow::Owned(weights));
    let mut linear = Preparation::new(weights, hessian, &job.config).unwrap();
    let EncodeConfig { bits, codebook, .. } = job.config;
    let effort = job.config.effort;
    let encoder = TileEncoder::new(context, bits, codebook, effort, Tuning::default()).unwrap();
    let samples = encoder.encode(context, linear.samples().as_flattened());
    linear.settle(&states(&samples.unwrap(), bits));
    linear
}

#[test]
fn scales_are_those_that_the_cpu_fits_to_the_same_codes() {
    let Some(gpu) = open(Options::default()) else {
        return;
    };
    let context = Context::new(&gpu);
    // Those with a Hessian: scales of others are the CPU's.
    let with_hessians = || {
        let mut jobs = jobs();
        jobs.truncate(3);
        jobs.remove(0);
        jobs[1].config.refit = false;
        // An input that is never there, and an output that is nothing.
        let mut hessian = DMatrix::clone(jobs[0].hessian.as_ref().unwrap());
        hessian.column_mut(7).fill(0.0);
        hessian.row_mut(7).fill(0.0);
        jobs[0].hessian = Some(Arc::new(hessian));
        jobs[0].weights[128 * 9..128 * 10].fill(0.0);
        jobs
    };
    let found = encode_trellis(&context, with_hessians(), Tuning::default()).unwrap();
    for (job, found) in with_hessians().iter().zip(found) {
        let name = &job.name;
        let expected = settled(&context, job).fit(found.linear.words()).unwrap();
        let close = |found: &[f16], expected: &[f16]| {
            let pairs = found.iter().zip(expected);
            pairs.for_each(|(f, e)| {
                let (f, e) = (f.to_f32(), e.to_f32());
                assert!((f - e).abs() <= 2e-3 * e.abs(), "{name}: {f}, not {e}");
            });
        };
        close(found.linear.suh(), &expected.suh);
        close(found.linear.svh(), &expected.svh);
        let ratio = found.report.relative_error / expected.relative_error;
        assert!((ratio - 1.0).abs() < 1e-3, "{name}: {ratio}");
    }
}

#[test]
fn what_cannot_be_encoded_is_named() {
    let Some(gpu) = open(Options::default()) else {
        return;
    };
    let context = Context::new(&gpu);
    let mut broken = jobs();
    broken[1].weights[5] = f32::NAN;
    let error = encode_trellis(&context, broken, Tuning::default()).unwrap_err();
    assert!(error.to_string().contains("linear 1"), "{error}");
    let mut short = jobs();
    short[2].weights.pop();
    let error = encode_trellis(&context, short, Tuning::default()).unwrap_err();
    assert!(error.to_string().contains("weights of linear 2"), "{error}");
}
