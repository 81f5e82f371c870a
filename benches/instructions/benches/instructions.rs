//! How many instructions do the hot kernels of the CPU take, whatever else the machine does?
//!
//! Valgrind counts them, on one thread and with AVX2, the most that it knows: kernels that choose at run time see no
//! AVX-512 there. Inputs are small and the same in every run, so two counts differ only if the code does.
// What gungraun's macros make is public and says nothing of itself.
#![allow(missing_docs, unreachable_pub)]

use std::{hint::black_box, sync::Arc};

use gungraun::{library_benchmark, library_benchmark_group, main};
use half::f16;
use nalgebra::DMatrix;
use treillage_cpu::{Arithmetic, packed::Rotated};
use treillage_gptq::{Calibration, Config, Format, GroupedLinear, IntBits, ScaleRule};
use treillage_linalg::{Hessian, hadamard};
use treillage_moe::{LossGroup, Routes, Routing, least_loss, route};
use treillage_trellis::{
    Bits, Codebook, PackedLinear, PackedParts, TILE_WEIGHTS, lanes::Isa, viterbi::Encoder,
};

/// Wide enough for a few rotations, small enough for a tool that runs fifty times slower.
const FEATURES: usize = 256;

/// Numbers within ±1 that look like noise.
fn noise(count: usize) -> Vec<f32> {
    let mix = |i: usize| (i as u32 + 1).wrapping_mul(0x9E37_79B9).rotate_left(13) >> 8;
    (0..count)
        .map(|i| (mix(i * i + i) as f32 / (1 << 23) as f32) - 1.0)
        .collect()
}

fn three_bits() -> Bits {
    Bits::new(3).expect("a rate")
}

/// The thread that is counted does all the work, what runs on rayon's threads too.
fn one_thread() {
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build_global()
        .expect("a process of its own");
}

fn encoder(bits: u32) -> (Encoder, Vec<f32>) {
    let bits = Bits::new(bits as usize).expect("a rate");
    (Encoder::new(bits, Codebook::Mul1), noise(TILE_WEIGHTS))
}

#[library_benchmark]
#[bench::bits_3(args = (3), setup = encoder)]
#[bench::bits_5(args = (5), setup = encoder)]
fn viterbi_tile((encoder, targets): (Encoder, Vec<f32>)) -> (Encoder, Vec<f32>) {
    let (tiles, _) = targets.as_chunks::<TILE_WEIGHTS>();
    black_box(encoder.encode_tile(black_box(&tiles[0])));
    (encoder, targets)
}

struct Product {
    linear: PackedLinear,
    arithmetic: Arithmetic,
    x: Vec<f32>,
    out: Vec<f32>,
}

fn product(arithmetic: Arithmetic) -> Product {
    let tiles = [FEATURES / 16, FEATURES / 16, three_bits().words_per_tile()];
    let words = (0..tiles.iter().product()).map(|i: usize| (i * 40_503) as u16);
    let linear = PackedLinear::new(PackedParts {
        words: Arc::new(words.collect::<Vec<_>>()),
        shape: tiles,
        codebook: Codebook::Mul1,
        suh: vec![f16::from_f32(0.0625); FEATURES],
        svh: vec![f16::ONE; FEATURES],
        bias: None,
    });
    Product {
        linear: linear.expect("whole blocks"),
        arithmetic,
        x: noise(FEATURES),
        out: vec![0.0; FEATURES],
    }
}

#[library_benchmark]
#[bench::exact(args = (Arithmetic::Exact), setup = product)]
#[bench::int8(args = (Arithmetic::Int8), setup = product)]
fn packed_row(mut p: Product) -> Product {
    let rotated = Rotated::new(Isa::best(), p.arithmetic, &p.linear, &p.x, FEATURES);
    rotated.multiply(&p.linear, 0..p.linear.shape()[1], black_box(&mut p.out));
    p
}

#[library_benchmark]
#[bench::of_2048(args = (2048), setup = noise)]
fn hadamard_row(mut row: Vec<f32>) -> Vec<f32> {
    hadamard::fwht(black_box(&mut row), 128);
    row
}

struct Layer {
    hessian: DMatrix<f32>,
    config: Config,
    weights: DMatrix<f32>,
}

fn layer(scales: ScaleRule) -> Layer {
    one_thread();
    let mut hessian = Hessian::new(FEATURES);
    hessian
        .update(&noise(2 * FEATURES * FEATURES))
        .expect("whole rows");
    Layer {
        hessian: hessian.mean(),
        config: Config {
            scales,
            ..Config::new(Format::Int(IntBits::Four))
        },
        weights: DMatrix::from_vec(FEATURES, 64, noise(FEATURES * 64)),
    }
}

#[library_benchmark]
#[bench::minmax(args = (ScaleRule::Minmax), setup = layer)]
#[bench::mse(args = (ScaleRule::Mse), setup = layer)]
fn gptq(layer: Layer) -> GroupedLinear {
    Calibration::new(Some(black_box(&layer.hessian)), FEATURES, &layer.config)
        .and_then(|inputs| inputs.encode(&layer.weights))
        .expect("finite numbers")
}

fn loss_groups(linears: usize) -> Vec<LossGroup> {
    let group = |importance: &f32| LossGroup {
        weights: 2048 * 512,
        losses: std::array::from_fn(|rate| {
            f64::from((3.0 * importance).exp()) * 0.26f64.powi(rate as i32)
        }),
    };
    noise(linears).iter().map(group).collect()
}

#[library_benchmark]
#[bench::of_1536(args = (1536), setup = loss_groups)]
fn allocation(groups: Vec<LossGroup>) -> Vec<LossGroup> {
    let _ = black_box(least_loss(black_box(&groups), 2.7));
    groups
}

#[library_benchmark]
#[bench::tokens_16(args = (16 * 128), setup = noise)]
fn router(logits: Vec<f32>) -> Routes {
    route(black_box(&logits), 128, &Routing::softmax(8, true), None).expect("finite logits")
}

library_benchmark_group!(
    name = kernels,
    benchmarks = [
        viterbi_tile,
        packed_row,
        hadamard_row,
        gptq,
        allocation,
        router
    ]
);
main!(library_benchmark_groups = kernels);
