//! What do the factorizations of a Hessian cost, once for each linear or group of linears?

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use treillage_linalg::{Damping, Hessian, block_ldl, cholesky, gptq_factor};

const FEATURES: usize = 2048;

fn factorizations(c: &mut Criterion) {
    let rows: Vec<f32> = (0..4096 * FEATURES)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let mut hessian = Hessian::new(FEATURES);
    if let Err(error) = hessian.update(&rows) {
        panic!("{error}"); // the batch is whole rows
    }
    let h = hessian.mean();
    let damping = Damping::default();

    let mut group = c.benchmark_group("factor2048");
    group.sample_size(10);
    group.bench_function("mean", |b| b.iter(|| hessian.mean()));
    group.bench_function("cholesky", |b| b.iter(|| cholesky(black_box(&h), damping)));
    group.bench_function("block_ldl", |b| {
        b.iter(|| block_ldl(black_box(&h), 16, damping))
    });
    group.bench_function("gptq_factor", |b| {
        b.iter(|| gptq_factor(black_box(&h), None, damping))
    });
}

criterion_group!(benches, factorizations);
criterion_main!(benches);
