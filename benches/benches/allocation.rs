//! What does it cost to choose a rate for each of 73,728 expert linears (Qwen3-Coder-Next's: 48 layers, 512 experts, gate, up, down)?
//!
//! On one thread. Losses are like those of trellis codes, of linears whose importance spreads over some decades.

use criterion::{Criterion, criterion_group, criterion_main};
use treillage_benches::random;
use treillage_moe::{LossGroup, least_loss};

fn allocation(c: &mut Criterion) {
    let linears = 48 * 512 * 3;
    let importance = random::normal(&mut random::rng(0), linears);
    let groups: Vec<LossGroup> = importance
        .iter()
        .map(|importance| LossGroup {
            weights: 2048 * 512,
            losses: std::array::from_fn(|rate| {
                f64::from(importance.exp()) * 0.26f64.powi(rate as i32)
            }),
        })
        .collect();
    c.bench_function("allocation/least_loss/73728", |b| {
        b.iter(|| least_loss(&groups, 2.7));
    });
}

criterion_group!(benches, allocation);
criterion_main!(benches);
