//! Trellis codes made on a GPU are as good as the CPU's.

use std::path::Path;

use tempfile::tempdir;
use treillage_backend::Quantization;
use treillage_cpu::CpuBackend;
use treillage_gpu::{Adapters, GpuBackend};
use treillage_quantize::{
    AllocationRule, HeadBits, LinearSummary, Options, TrellisOptions, quantize,
};
use treillage_trellis::viterbi::Effort;

use crate::support::Shape;

/// One dense block: seven linears, which take a software driver a minute.
fn shape() -> Shape {
    Shape {
        blocks: 1,
        ..Shape::small()
    }
}

fn run<B: Quantization>(backend: &B, source: &Path, out: &Path) -> Vec<LinearSummary> {
    let options = Options::trellis(TrellisOptions {
        bits_per_weight: 2.0,
        allocation: AllocationRule::Uniform,
        head_bits: HeadBits::Keep,
        effort: Effort::Fast,
        ..TrellisOptions::default()
    });
    let tokens = shape().tokens(8, 64);
    let summary = quantize(backend, source, out, &tokens, &options, &mut |_| ());
    summary.unwrap().linears
}

#[test]
fn a_gpu_quantizes_as_well_as_the_cpu() {
    let gpu = match Adapters::find().first() {
        Ok(adapter) => {
            let options = treillage_gpu::Options {
                exact: true,
                ..treillage_gpu::Options::default()
            };
            GpuBackend::new(adapter, options).unwrap()
        }
        Err(error) => {
            assert!(
                std::env::var_os("TREILLAGE_REQUIRE_GPU").is_none(),
                "{error}"
            );
            eprintln!("skipped: {error}");
            return;
        }
    };
    let dir = tempdir().unwrap();
    let source = shape().write(&dir.path().join("source"), |_, _| ());
    let on_gpu = run(&gpu, &source, &dir.path().join("gpu"));
    let on_cpu = run(&CpuBackend::default(), &source, &dir.path().join("cpu"));
    assert_eq!(on_gpu.len(), 7);
    let mut sums = [0.0; 2];
    for (gpu, cpu) in on_gpu.iter().zip(&on_cpu) {
        assert_eq!(
            (&gpu.prefix, gpu.bits, gpu.tokens),
            (&cpu.prefix, 2, cpu.tokens)
        );
        assert!(gpu.fallback.is_none(), "{}", gpu.prefix);
        sums[0] += gpu.relative_error;
        sums[1] += cpu.relative_error;
    }
    // Another seed changes the CPU's sum by up to 4 %, and a single linear's error by a fifth: what a linear reads depends on the codes
    // of those before it.
    let apart = (sums[0] / sums[1] - 1.0).abs();
    assert!(apart < 0.05, "errors of {} instead of {}", sums[0], sums[1]);
}
