//! The fixture model on the device against the CPU.
#![allow(clippy::unwrap_used, reason = "what is not there is a failed test")]

mod support;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use treillage_backend::{Choice, Inference};
use treillage_checkpoint::Checkpoint;
use treillage_cpu::CpuBackend;
use treillage_gpu::{CacheBits, GpuBackend, Mode, Options};
use treillage_model::{GenerateOptions, Model, PREFILL_CHUNK, Session, generate, text::Tokenizer};

/// Largest difference of logits, as a share of the largest: keys and values are f16 on the device.
const TOLERANCE: f32 = 2e-2;
const PROMPTS: [&str; 3] = [
    "The ",
    "Once upon a time there was",
    "fn main() {\n    let x = ",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn fixture() -> PathBuf {
    fixtures().join("micro-qwen3_moe")
}

fn model<B: Inference>(backend: &B) -> Model<B> {
    let checkpoint = Checkpoint::open(fixture()).unwrap();
    Model::load(backend, &checkpoint, checkpoint.config()).unwrap()
}

fn device(options: Options) -> Option<GpuBackend> {
    Some(GpuBackend::on(&support::open(options)?).unwrap())
}

/// More tokens than are read at once.
fn long_text() -> Vec<u32> {
    let text = fs::read_to_string(fixtures().join("text/eval.txt")).unwrap();
    let mut ids = Tokenizer::open(&fixture()).unwrap().encode(&text).unwrap();
    ids.truncate(PREFILL_CHUNK + 88);
    ids
}

/// The logits of all tokens of `ids`, of which the first `prompt` are read together and the others one by one.
fn logits<B: Inference>(session: &mut Session<'_, B>, ids: &[u32], prompt: usize) -> Vec<Vec<f32>> {
    session.truncate(0);
    let mut all = vec![session.extend(&ids[..prompt]).unwrap()];
    all.extend(
        ids[prompt..]
            .iter()
            .map(|&id| session.extend(&[id]).unwrap()),
    );
    all
}

/// The largest difference as a share of the largest value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn logits_are_those_of_the_cpu() {
    let cpu = CpuBackend::default();
    let cpu_model = model(&cpu);
    let ids = long_text();
    let mut session = cpu_model.session(&cpu, ids.len()).unwrap();
    // A prompt of several chunks, of one, and hardly any, followed by single tokens.
    let cases = [(ids.len() - 8, ids.len()), (100, 120), (1, 24)];
    let expected = cases.map(|(prompt, all)| logits(&mut session, &ids[..all], prompt));
    let mut worst = 0f32;
    for without_subgroups in [false, true] {
        let Some(gpu) = device(Options {
            without_subgroups,
            ..Options::default()
        }) else {
            return;
        };
        let gpu_model = model(&gpu);
        let mut session = gpu_model.session(&gpu, ids.len()).unwrap();
        for ((prompt, all), expected) in cases.into_iter().zip(&expected) {
            let found = logits(&mut session, &ids[..all], prompt);
            for (found, expected) in found.iter().zip(expected) {
                worst = worst.max(difference(found, expected));
            }
        }
    }
    eprintln!("largest difference of logits: {worst:.2e} of the largest");
    assert!(worst <= TOLERANCE, "{worst}");
}

#[test]
fn an_eight_bit_cache_is_close() {
    let cpu = CpuBackend::default();
    let cpu_model = model(&cpu);
    let ids = &long_text()[..200];
    let mut session = cpu_model.session(&cpu, ids.len()).unwrap();
    let expected = logits(&mut session, ids, 140);
    let Some(gpu) = device(Options {
        cache_bits: CacheBits::Eight,
        ..Options::default()
    }) else {
        return;
    };
    let gpu_model = model(&gpu);
    let mut session = gpu_model.session(&gpu, ids.len()).unwrap();
    let found = logits(&mut session, ids, 140);
    let pairs = found.iter().zip(&expected);
    let worst = pairs.fold(0f32, |m, (a, b)| m.max(difference(a, b)));
    eprintln!("largest difference of logits with an eight-bit cache: {worst:.2e} of the largest");
    assert!(worst <= TOLERANCE, "{worst}");
}

#[test]
fn checks_change_no_bit() {
    let ids = &long_text()[..150];
    let run = |mode| {
        let gpu = device(Options {
            mode,
            ..Options::default()
        })?;
        let model = model(&gpu);
        let mut session = model.session(&gpu, ids.len()).unwrap();
        Some(logits(&mut session, ids, 140))
    };
    if let (Some(checked), Some(trusted)) = (run(Mode::Checked), run(Mode::Trusted)) {
        assert!(checked == trusted);
    }
}

#[test]
fn greedy_text_is_that_of_the_cpu() {
    let Some(gpu) = device(Options::default()) else {
        return;
    };
    let cpu = CpuBackend::default();
    let (cpu_model, gpu_model) = (model(&cpu), model(&gpu));
    let tokenizer = Tokenizer::open(&fixture()).unwrap();
    let options = GenerateOptions {
        max_tokens: 32,
        ..GenerateOptions::default()
    };
    let mut silent = |_: &str| ControlFlow::Continue(());
    let mut equal = 0;
    for prompt in PROMPTS {
        let prompt = tokenizer.encode(prompt).unwrap();
        let mut session = cpu_model.session(&cpu, 256).unwrap();
        let expected = generate(&mut session, &tokenizer, &prompt, &options, &mut silent).unwrap();
        // Where the CPU's two largest logits are nearly the same, either is right.
        let mut replay = cpu_model.session(&cpu, 256).unwrap();
        let mut step = replay.extend(&prompt).unwrap();
        let mut certain = 0;
        for &id in &expected.ids {
            if margin(&step) < TOLERANCE {
                break;
            }
            assert_eq!(Choice::GREEDY.choose(&step), Some(id));
            step = replay.extend(&[id]).unwrap();
            certain += 1;
        }
        let mut session = gpu_model.session(&gpu, 256).unwrap();
        let found = generate(&mut session, &tokenizer, &prompt, &options, &mut silent).unwrap();
        assert_eq!(found.ids[..certain], expected.ids[..certain]);
        equal += certain;
    }
    assert!(equal > 16, "{equal} tokens decide nothing");
}

/// How far the largest logit is ahead, as a share of it.
fn margin(logits: &[f32]) -> f32 {
    let mut sorted = logits.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    (sorted[0] - sorted[1]) / sorted[0].abs()
}

#[test]
fn a_token_is_one_submission_in_the_same_memory() {
    let Some(gpu) = device(Options::default()) else {
        return;
    };
    let model = model(&gpu);
    let mut session = model.session(&gpu, 64).unwrap();
    let ids = long_text();
    session.extend(&ids[..10]).unwrap();
    let mut after_first = None;
    // Beyond the length up to which attention does not share the context, too.
    for &id in &ids[10..60] {
        let before = gpu.counts();
        session.extend(&[id]).unwrap();
        let after = gpu.counts();
        assert_eq!(after.submissions - before.submissions, 1);
        let seen = (after.bind_groups, gpu.memory());
        assert_eq!(*after_first.get_or_insert(seen), seen);
    }
}
