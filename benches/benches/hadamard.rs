//! How fast are Hadamard transforms, in bytes of f32 transformed, and what do the run-time chosen paths gain over portable code?
//!
//! The vectors fit the first-level cache, as activations do; the matrices do not, as weights do not.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nalgebra::DMatrix;
use treillage_linalg::hadamard;

fn vectors(c: &mut Criterion) {
    let mut group = c.benchmark_group("hadamard/vector");
    let mut row: Vec<f32> = (0..2048).map(|i| (i as f32).sin()).collect();
    group.throughput(Throughput::Bytes(size_of_val(&row[..]) as u64));
    for block in hadamard::BLOCKS {
        group.bench_function(BenchmarkId::new("dispatched", block), |b| {
            b.iter(|| hadamard::fwht(&mut row, block));
        });
        group.bench_function(BenchmarkId::new("portable", block), |b| {
            b.iter(|| hadamard::fwht_portable(&mut row, block));
        });
    }
}

fn matrices(c: &mut Criterion) {
    let mut group = c.benchmark_group("hadamard/matrix2048");
    let mut matrix = DMatrix::from_fn(2048, 2048, |i, j| ((i * 31 + j * 17) as f32).sin());
    group.throughput(Throughput::Bytes(size_of_val(matrix.as_slice()) as u64));
    group.bench_function("rows", |b| {
        b.iter(|| hadamard::rotate_rows(&mut matrix, 128))
    });
    group.bench_function("columns", |b| {
        b.iter(|| hadamard::rotate_columns(&mut matrix, 128))
    });
}

criterion_group!(benches, vectors, matrices);
criterion_main!(benches);
