//! How long does one core take to encode one tile, 256 weights, at each rate and with each set of instructions?

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use treillage_benches::random;
use treillage_trellis::viterbi::{self, Encoder};
use treillage_trellis::{Bits, Codebook, SimdLevel, TILE_WEIGHTS};

/// Near the best size of Gaussian targets at every rate; speed hardly depends on it.
const SIZE: f32 = 0.9;

fn targets(tiles: usize) -> Vec<f32> {
    let gaussian = random::normal(&mut random::rng(1), tiles * TILE_WEIGHTS);
    gaussian.iter().map(|w| SIZE * w).collect()
}

fn one_tile(c: &mut Criterion) {
    let targets = targets(1);
    let (tiles, _) = targets.as_chunks::<TILE_WEIGHTS>();
    let mut group = c.benchmark_group("viterbi");
    group.sample_size(10).throughput(Throughput::Elements(1));
    for bits in Bits::all() {
        for level in SimdLevel::available() {
            let encoder = Encoder::with_level(bits, Codebook::Mul1, level);
            let id = BenchmarkId::new(level.name(), format!("{bits} bits"));
            group.bench_function(id, |b| b.iter(|| encoder.encode_tile(black_box(&tiles[0]))));
        }
    }
}

fn all_cores(c: &mut Criterion) {
    let targets = targets(64);
    let Ok(bits) = Bits::new(3) else { return };
    let mut group = c.benchmark_group("viterbi all cores");
    group.sample_size(10).throughput(Throughput::Elements(64));
    group.bench_function("3 bits", |b| {
        b.iter(|| viterbi::encode_tiles(black_box(&targets), bits, Codebook::Mul1))
    });
}

criterion_group!(benches, one_tile, all_cores);
criterion_main!(benches);
