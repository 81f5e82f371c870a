//! What does attention cost beside the linears of a layer: for one token after a context, and for a prompt?
//!
//! 32 heads of 128 over four key heads, on the threads of the rayon pool.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use treillage_backend::{
    AttentionInputs, AttentionSpec, Error, Inference, MixerSpec, Rope, RopePairing,
};
use treillage_benches::random;
use treillage_cpu::{Cache, CpuBackend, Norm, Tensor};

const SPEC: AttentionSpec = AttentionSpec {
    heads: 32,
    kv_heads: 4,
    head_dim: 128,
    scale: 0.088_388_35,
    rope: Rope {
        theta: 1e6,
        dims: 128,
        pairing: RopePairing::HalfSplit,
    },
    output_gate: false,
};

/// Projections of some tokens, and the norm of their heads.
struct Tokens {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    norm: Norm,
}

impl Tokens {
    fn new(backend: &CpuBackend, count: usize) -> Result<Self, Error> {
        let mut rng = random::rng(count as u64);
        let mut upload = |heads: usize| {
            let width = heads * SPEC.head_dim;
            backend.upload(&random::normal(&mut rng, count * width), width)
        };
        Ok(Self {
            q: upload(SPEC.heads)?,
            k: upload(SPEC.kv_heads)?,
            v: upload(SPEC.kv_heads)?,
            norm: backend.load_norm(vec![1.0; SPEC.head_dim], 1e-6)?,
        })
    }

    fn attend(&self, backend: &CpuBackend, cache: &mut Cache) -> Result<Tensor, Error> {
        let inputs = AttentionInputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            q_norm: Some(&self.norm),
            k_norm: Some(&self.norm),
        };
        backend.attention(inputs, &SPEC, cache)
    }
}

/// `tokens` tokens after a context of `past`.
fn measure(c: &mut Criterion, name: &str, past: usize, tokens: usize) -> Result<(), Error> {
    let backend = CpuBackend::default();
    let mut cache = backend.new_cache(&MixerSpec::Attention(SPEC), past + tokens)?;
    if past > 0 {
        Tokens::new(&backend, past)?.attend(&backend, &mut cache)?;
    }
    let new = Tokens::new(&backend, tokens)?;
    let mut group = c.benchmark_group("attention");
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function(BenchmarkId::new(name, past + tokens), |b| {
        b.iter(|| {
            backend.truncate_cache(&mut cache, past);
            new.attend(&backend, &mut cache)
        });
    });
    Ok(())
}

fn attention(c: &mut Criterion) {
    let cases = [("decode", 511, 1), ("decode", 4095, 1), ("prefill", 0, 512)];
    for (name, past, tokens) in cases {
        measure(c, name, past, tokens).expect("sizes that fit each other");
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
