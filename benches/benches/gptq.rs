//! What do the parts of quantizing a linear cost: making its inputs ready, sweeping, measuring the error?

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nalgebra::DMatrix;
use treillage_benches::random;
use treillage_gptq::{Calibration, Config, Format, IntBits, ScaleRule, relative_error};
use treillage_linalg::Hessian;

const INPUTS: usize = 1024;
const OUTPUTS: usize = 1024;

fn stages(c: &mut Criterion) {
    let mut rng = random::rng(1);
    let weights = random::normal(&mut rng, INPUTS * OUTPUTS);
    let weights = DMatrix::from_vec(INPUTS, OUTPUTS, weights);
    let mut hessian = Hessian::new(INPUTS);
    if let Err(error) = hessian.update(&random::normal(&mut rng, 2048 * INPUTS)) {
        panic!("{error}"); // the batch is whole rows
    }
    let hessian = hessian.mean();
    let config = Config {
        scales: ScaleRule::Minmax,
        ..Config::new(Format::Int(IntBits::Four))
    };

    let mut group = c.benchmark_group("gptq1024x1024");
    group.sample_size(10);
    group.bench_function("calibration", |b| {
        b.iter(|| Calibration::new(Some(black_box(&hessian)), INPUTS, &config))
    });
    group.throughput(Throughput::Elements((INPUTS * OUTPUTS) as u64));
    for format in [Format::Int(IntBits::Four), Format::NvFp4, Format::MxFp4] {
        for scales in [ScaleRule::Minmax, ScaleRule::Mse] {
            let config = Config {
                scales,
                ..Config::new(format)
            };
            let inputs = Calibration::new(Some(&hessian), INPUTS, &config);
            let id = BenchmarkId::new(format!("encode {format}"), format!("{scales:?}"));
            group.bench_function(id, |b| {
                b.iter(|| {
                    inputs
                        .as_ref()
                        .map(|inputs| inputs.encode(black_box(&weights)))
                })
            });
        }
    }
    let inputs = Calibration::new(Some(&hessian), INPUTS, &config);
    if let Ok(linear) = inputs.and_then(|inputs| inputs.encode(&weights)) {
        group.bench_function("relative_error", |b| {
            b.iter(|| relative_error(black_box(&weights), &linear, Some(&hessian)))
        });
    }
}

criterion_group!(benches, stages);
criterion_main!(benches);
