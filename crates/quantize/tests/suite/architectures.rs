//! Every architecture from end to end, on the repository's trained models.

use std::path::{Path, PathBuf};

use tempfile::tempdir;
use treillage_checkpoint::{Checkpoint, Export, StoredLinear};
use treillage_cpu::CpuBackend;
use treillage_gptq::{Format, IntBits};
use treillage_model::{
    Model,
    evaluate::{Windows, compare},
    plan::plan,
    text::Tokenizer,
};
use treillage_quantize::{
    AllocationRule, CalibrationTokens, Capture, GptqOptions, Options, Summary, TrellisOptions,
    quantize,
};

const MODELS: [&str; 2] = ["micro-glm4_moe_lite", "micro-qwen3_next"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name)
}

fn run(model: &str, out: &Path, options: &Options) -> Summary {
    let source = fixture(model);
    let tokenizer = Tokenizer::open(&source).unwrap();
    let text = [fixture("text/calib.txt")];
    let tokens = CalibrationTokens::read(&tokenizer, &text, 24, 128).unwrap();
    let backend = CpuBackend::default();
    quantize(&backend, &source, out, &tokens, options, &mut |_| ()).unwrap()
}

/// Kullback-Leibler divergence from the original, on text that no calibration saw.
fn divergence(model: &str, dir: &Path) -> f64 {
    let (backend, source) = (CpuBackend::default(), fixture(model));
    let load = |dir: &Path| {
        let checkpoint = Checkpoint::open(dir).unwrap();
        Model::load(&backend, &checkpoint, checkpoint.config()).unwrap()
    };
    let (quantized, original) = (load(dir), load(&source));
    let text = std::fs::read_to_string(fixture("text/eval.txt")).unwrap();
    let tokens = Tokenizer::open(&source).unwrap().encode(&text).unwrap();
    let windows = Windows {
        length: 256,
        limit: Some(6),
    };
    let mut session = quantized.session(&backend, windows.length).unwrap();
    let mut reference = original.session(&backend, windows.length).unwrap();
    let found = compare(&mut session, &mut reference, &tokens, windows, &mut |_| ()).unwrap();
    found.kl_divergence
}

/// Checks that all linears of the plan are codes, with calibration, and that all else is as it was if `untouched`.
fn assert_complete(model: &str, out: &Path, summary: &Summary, untouched: bool) {
    let source = Checkpoint::open(fixture(model)).unwrap();
    let result = Checkpoint::open(out).unwrap();
    let plan = plan(source.config());
    let linears = plan.blocks.iter().flat_map(|block| &block.linears);
    for linear in linears {
        let shape = linear.shape;
        let stored = result.linear(&linear.prefix, shape.in_features, shape.out_features);
        let dense = matches!(stored.unwrap(), StoredLinear::Dense { .. });
        assert!(!dense, "{} was not quantized", linear.prefix);
        let mut summaries = summary.linears.iter();
        let found = summaries.find(|l| l.prefix == linear.prefix).unwrap();
        assert!(found.fallback.is_none(), "{found:?}");
        assert!(found.tokens > 0, "{found:?}");
    }
    for name in plan.blocks.iter().flat_map(|block| &block.kept) {
        let [before, after] = [&source, &result].map(|c| c.dense(name).unwrap());
        assert_eq!(before.shape(), after.shape(), "{name}");
        // Linears that are kept become f16, in which tiny weights are rounded.
        let close = |(a, b): (f32, f32)| (a - b).abs() < 1e-7;
        let same = before.to_f32().into_iter().zip(after.to_f32()).all(close);
        assert!(!untouched || same, "{name}");
    }
}

#[test]
fn trellis_codes_come_closer_with_every_bit() {
    for model in MODELS {
        let dir = tempdir().unwrap();
        let mut last = 0.0;
        for (bits, capture) in [
            (4.0, Capture::Once),
            (3.0, Capture::Staged),
            (2.0, Capture::Once),
        ] {
            let out = dir.path().join(bits.to_string());
            let mut options = Options::trellis(TrellisOptions {
                bits_per_weight: bits,
                allocation: AllocationRule::Uniform,
                ..TrellisOptions::default()
            });
            options.recipe.capture = capture;
            let summary = run(model, &out, &options);
            assert_eq!(summary.bits_per_weight, bits);
            assert_complete(model, &out, &summary, true);
            let kl = divergence(model, &out);
            println!("{model} at {bits} bits: KL {kl:.5}");
            assert!(kl > 1.5 * last, "{model} at {bits} bits: {kl} after {last}");
            last = kl;
        }
        assert!(last < 0.5, "{model}: {last}");
    }
}

#[test]
fn groups_come_close_whether_rotations_are_folded_or_online() {
    for model in MODELS {
        let dir = tempdir().unwrap();
        for (format, export, bound) in [
            (Format::Int(IntBits::Four), Export::CompressedTensors, 0.06),
            (Format::Int(IntBits::Four), Export::Gptq, 0.06),
            (Format::NvFp4, Export::FpQuant, 0.06),
        ] {
            let out = dir.path().join(format!("{format}-{export}"));
            let options = Options::mr_gptq(GptqOptions {
                export,
                ..GptqOptions::new(format)
            });
            let summary = run(model, &out, &options);
            assert_complete(model, &out, &summary, false);
            let kl = divergence(model, &out);
            println!("{model} in {format} for {export}: KL {kl:.5}");
            assert!(kl < bound, "{model} in {format} for {export}: {kl}");
        }
    }
}
