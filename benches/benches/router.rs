//! What does it cost to choose experts and to group tokens by them, for one token and for a prompt of 512?
//!
//! On one thread; the router's matrix product is not part of it.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use treillage_benches::random;
use treillage_moe::{Routing, group, route};

fn router(c: &mut Criterion) {
    for (experts, top_k) in [(32, 4), (128, 8), (512, 10)] {
        let routing = Routing::softmax(top_k, true);
        let mut benches = c.benchmark_group(format!("router/top{top_k}of{experts}"));
        for tokens in [1, 512] {
            let logits = random::normal(&mut random::rng(tokens as u64), tokens * experts);
            benches.throughput(Throughput::Elements(tokens as u64));
            benches.bench_function(BenchmarkId::new("route", tokens), |b| {
                b.iter(|| route(&logits, experts, &routing, None));
            });
            let routes = route(&logits, experts, &routing, None).expect("finite logits");
            benches.bench_function(BenchmarkId::new("group", tokens), |b| {
                b.iter(|| group(&routes));
            });
        }
    }
}

criterion_group!(benches, router);
criterion_main!(benches);
