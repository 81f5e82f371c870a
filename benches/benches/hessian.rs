//! What does accumulating a Hessian cost, for one long batch and for many short ones, as experts see them?

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use treillage_linalg::{Hessian, Precision};

const TOKENS: usize = 2048;

fn update(c: &mut Criterion) {
    let mut group = c.benchmark_group("hessian/update2048");
    group.sample_size(10);
    for features in [1024, 2048] {
        let rows: Vec<f32> = (0..TOKENS * features)
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        // One triangle: n(n+1)/2 products and as many sums for each token.
        group.throughput(Throughput::Elements(
            (TOKENS * features * (features + 1)) as u64,
        ));
        for precision in [Precision::F32, Precision::F64] {
            let mut hessian = Hessian::with_precision(features, precision);
            group.bench_function(BenchmarkId::new(format!("{precision:?}"), features), |b| {
                b.iter(|| hessian.update(&rows));
            });
        }
        let narrow: Vec<bf16> = rows.iter().map(|&x| bf16::from_f32(x)).collect();
        let mut hessian = Hessian::new(features);
        group.bench_function(BenchmarkId::new("F32 from bf16", features), |b| {
            b.iter(|| hessian.update_bf16(&narrow));
        });
        let mut hessian = Hessian::new(features);
        group.bench_function(BenchmarkId::new("F32 in batches of 8", features), |b| {
            b.iter(|| {
                rows.chunks(8 * features)
                    .try_for_each(|batch| hessian.update(batch))
            });
        });
    }
}

criterion_group!(benches, update);
criterion_main!(benches);
