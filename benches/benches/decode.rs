//! How fast do packed tiles decode to row-major f32, by codebook and rate, and what do the instructions chosen at run time
//! gain? The words fit the second-level cache.
//!
//! Products do not decode this way: `packed_linear` measures them.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::Rng;
use treillage_benches::random;
use treillage_trellis::lanes::Isa;
use treillage_trellis::{Bits, Codebook, TILE_WEIGHTS, decode};

const TILES: usize = 256;

fn decode_all(isa: Isa, words: &[u16], bits: Bits, codebook: Codebook) -> f32 {
    let mut tile = [0.0; TILE_WEIGHTS];
    let mut sum = 0.0;
    for words in words.chunks_exact(bits.words_per_tile()) {
        decode::decode_tile_with(isa, words, bits, codebook, &mut tile);
        sum += tile[0];
    }
    sum
}

fn words(bits: Bits) -> Vec<u16> {
    let mut words = vec![0; TILES * bits.words_per_tile()];
    random::rng(1).fill(&mut words[..]);
    words
}

fn rates(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements((TILES * TILE_WEIGHTS) as u64));
    for codebook in Codebook::ALL {
        for bits in Bits::all() {
            let words = words(bits);
            group.bench_function(BenchmarkId::new(codebook.name(), bits), |b| {
                b.iter(|| decode_all(Isa::best(), &words, bits, codebook));
            });
        }
    }
}

fn instructions(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode/instructions");
    group.throughput(Throughput::Elements((TILES * TILE_WEIGHTS) as u64));
    let bits = Bits::new(3).expect("a rate");
    let words = words(bits);
    for isa in Isa::available() {
        for codebook in Codebook::ALL {
            group.bench_function(BenchmarkId::new(codebook.name(), isa.level().name()), |b| {
                b.iter(|| decode_all(isa, &words, bits, codebook));
            });
        }
    }
}

criterion_group!(benches, rates, instructions);
criterion_main!(benches);
