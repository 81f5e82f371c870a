//! What do latent attention and the gated delta rule cost beside the linears of a layer: for one token, and for a prompt?
//!
//! In the sizes of GLM-4.7-Flash and Qwen3-Coder-Next, on the threads of the rayon pool.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use treillage_backend::{
    DeltaInputs, DeltaSpec, DeltaWeights, DenseData, DenseWeights, Error, Inference, LatentInputs,
    LatentSpec, LinearWeights, MixerSpec, Rope, RopePairing,
};
use treillage_benches::random;
use treillage_cpu::{Cache, CpuBackend, DeltaRule, Expansion, Norm, Tensor};

const LATENT: LatentSpec = LatentSpec {
    heads: 20,
    nope_dim: 192,
    value_dim: 256,
    rank: 512,
    rope: Rope {
        theta: 1e6,
        dims: 64,
        pairing: RopePairing::Interleaved,
    },
    scale: 0.0625,
};
const DELTA: DeltaSpec = DeltaSpec {
    key_heads: 16,
    value_heads: 32,
    key_dim: 128,
    value_dim: 128,
    kernel: 4,
};

fn upload(backend: &CpuBackend, tokens: usize, width: usize) -> Result<Tensor, Error> {
    let values = random::normal(&mut random::rng(width as u64), tokens * width);
    backend.upload(&values, width)
}

struct Latent {
    expansion: Expansion,
    norm: Norm,
}

impl Latent {
    fn new(backend: &CpuBackend) -> Result<Self, Error> {
        let shape = LATENT.expansion();
        let values = random::normal(&mut random::rng(1), shape.weights());
        let values: Vec<bf16> = values.iter().map(|x| bf16::from_f32(x / 22.0)).collect();
        let data = DenseData::Bf16(Arc::new(values));
        let weight = DenseWeights::new(shape.out_features, shape.in_features, data)?;
        let weights = LinearWeights::Dense { weight, bias: None };
        Ok(Self {
            expansion: backend.load_expansion(weights, &LATENT)?,
            norm: backend.load_norm(vec![1.0; LATENT.rank], 1e-6)?,
        })
    }

    fn attend(
        &self,
        backend: &CpuBackend,
        [q, latent]: &[Tensor; 2],
        cache: &mut Cache,
    ) -> Result<Tensor, Error> {
        let inputs = LatentInputs {
            q,
            latent,
            norm: &self.norm,
        };
        backend.latent_attention(inputs, &self.expansion, &LATENT, cache)
    }

    fn inputs(backend: &CpuBackend, tokens: usize) -> Result<[Tensor; 2], Error> {
        Ok([
            upload(backend, tokens, LATENT.heads * LATENT.query_dim())?,
            upload(backend, tokens, LATENT.cached_width())?,
        ])
    }
}

fn latent(c: &mut Criterion, name: &str, past: usize, tokens: usize) -> Result<(), Error> {
    let backend = CpuBackend::default();
    let latent = Latent::new(&backend)?;
    let mut cache = backend.new_cache(&MixerSpec::Latent(LATENT), past + tokens)?;
    for first in (0..past).step_by(512) {
        let inputs = Latent::inputs(&backend, (past - first).min(512))?;
        latent.attend(&backend, &inputs, &mut cache)?;
    }
    let inputs = Latent::inputs(&backend, tokens)?;
    let mut group = c.benchmark_group("latent_attention");
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function(BenchmarkId::new(name, past + tokens), |b| {
        b.iter(|| {
            backend.truncate_cache(&mut cache, past);
            latent.attend(&backend, &inputs, &mut cache)
        });
    });
    Ok(())
}

fn rule(backend: &CpuBackend) -> Result<DeltaRule, Error> {
    let mut rng = random::rng(2);
    let weights = DeltaWeights {
        conv: random::normal(&mut rng, DELTA.channels() * DELTA.kernel),
        log_rate: random::normal(&mut rng, DELTA.value_heads),
        time_bias: random::normal(&mut rng, DELTA.value_heads),
        norm: vec![1.0; DELTA.value_dim],
        epsilon: 1e-6,
    };
    backend.load_delta(weights, &DELTA)
}

fn delta(c: &mut Criterion, name: &str, tokens: usize) -> Result<(), Error> {
    let backend = CpuBackend::default();
    let rule = rule(&backend)?;
    let qkvz = upload(&backend, tokens, DELTA.projected())?;
    let ba = upload(&backend, tokens, 2 * DELTA.value_heads)?;
    // The state has no length; the count of tokens must not end the measurement.
    let mut cache = backend.new_cache(&MixerSpec::Delta(DELTA), usize::MAX / 2)?;
    let mut group = c.benchmark_group("delta_rule");
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function(BenchmarkId::new(name, tokens), |b| {
        b.iter(|| {
            let inputs = DeltaInputs {
                qkvz: &qkvz,
                ba: &ba,
            };
            backend.delta_rule(inputs, &rule, &DELTA, &mut cache)
        });
    });
    Ok(())
}

fn mixers(c: &mut Criterion) {
    let cases = [
        ("decode", 7, 1),
        ("decode", 511, 1),
        ("decode", 4095, 1),
        ("prefill", 0, 512),
    ];
    for (name, past, tokens) in cases {
        latent(c, name, past, tokens).expect("sizes that fit each other");
    }
    for (name, tokens) in [("decode", 1), ("prefill", 512)] {
        delta(c, name, tokens).expect("sizes that fit each other");
    }
}

criterion_group!(benches, mixers);
criterion_main!(benches);
