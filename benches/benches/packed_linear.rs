//! How many packed or grouped weights, or products with them, does one core get through per second: by arithmetic,
//! instructions, rows and rate, or format?
//!
//! A 2048×1536 linear, activations prepared (and outputs rotated back) each time. At 3 or 4 bits its words or codes just fit
//! the second-level cache, so this is not what a model too large for any cache sees.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use treillage_backend::LinearShape;
use treillage_benches::random;
use treillage_cpu::Arithmetic;
use treillage_cpu::grouped::Arranged;
use treillage_cpu::packed::Rotated;
use treillage_gptq::Format;
use treillage_trellis::lanes::Isa;
use treillage_trellis::{Bits, Codebook, PackedLinear};

const SHAPE: LinearShape = LinearShape {
    in_features: 2048,
    out_features: 1536,
};

fn linear(bits: Bits, codebook: Codebook) -> PackedLinear {
    random::packed_linear(&mut random::rng(1), SHAPE, bits, codebook)
        .expect("the shape is whole blocks")
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    (isa, arithmetic): (Isa, Arithmetic),
    linear: &PackedLinear,
    rows: usize,
) {
    let x = random::normal(&mut random::rng(2), rows * SHAPE.in_features);
    let mut out = vec![0.0; rows * SHAPE.out_features];
    group.throughput(Throughput::Elements((rows * SHAPE.weights()) as u64));
    group.bench_function(id, |b| {
        b.iter(|| {
            let rotated = Rotated::new(isa, arithmetic, linear, &x, SHAPE.in_features);
            rotated.multiply(linear, 0..linear.shape()[1], black_box(&mut out));
        });
    });
}

/// Products per second at 3 bits.
fn rows(c: &mut Criterion) {
    let linear = linear(Bits::new(3).expect("a rate"), Codebook::Mul1);
    for arithmetic in [Arithmetic::Exact, Arithmetic::Int8] {
        let mut group = c.benchmark_group(format!("packed_linear/{arithmetic:?}"));
        for isa in Isa::available() {
            for rows in [1, 8, 64] {
                let id = BenchmarkId::new(isa.level().name(), rows);
                measure(&mut group, id, (isa, arithmetic), &linear, rows);
            }
        }
    }
}

/// Weights per second for one row.
fn rates(c: &mut Criterion) {
    let mut group = c.benchmark_group("packed_linear/rates");
    for bits in Bits::all() {
        for codebook in Codebook::ALL {
            let linear = linear(bits, codebook);
            let id = BenchmarkId::new(format!("{codebook} exact"), bits);
            measure(&mut group, id, (Isa::best(), Arithmetic::Exact), &linear, 1);
        }
        let linear = linear(bits, Codebook::Mul1);
        let id = BenchmarkId::new("mul1 int8", bits);
        measure(&mut group, id, (Isa::best(), Arithmetic::Int8), &linear, 1);
    }
}

/// Products per second with grouped codes.
fn formats(c: &mut Criterion) {
    for arithmetic in [Arithmetic::Exact, Arithmetic::Int8] {
        let mut group = c.benchmark_group(format!("grouped_linear/{arithmetic:?}"));
        for format in Format::ALL {
            let linear = random::grouped_linear(&mut random::rng(1), SHAPE, format)
                .expect("the shape is whole groups");
            for isa in Isa::available() {
                for rows in [1, 4, 64] {
                    let x = random::normal(&mut random::rng(2), rows * SHAPE.in_features);
                    let mut out = vec![0.0; rows * SHAPE.out_features];
                    group.throughput(Throughput::Elements((rows * SHAPE.weights()) as u64));
                    let id = BenchmarkId::new(format!("{format}/{}", isa.level().name()), rows);
                    group.bench_function(id, |b| {
                        b.iter(|| {
                            let arranged = Arranged::new(isa, arithmetic, &linear, &x);
                            arranged.multiply(&linear, 0..SHAPE.out_features, black_box(&mut out));
                        });
                    });
                }
            }
        }
    }
}

criterion_group!(benches, rows, rates, formats);
criterion_main!(benches);
