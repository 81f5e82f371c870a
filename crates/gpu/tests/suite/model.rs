//! The fixture models on the device against the CPU, and against what transformers computes with them.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use serde_json::Value;
use treillage_backend::Inference;
use treillage_checkpoint::Checkpoint;
use treillage_cpu::CpuBackend;
use treillage_gpu::{CacheBits, GpuBackend, Mode, Options};
use treillage_model::{GenerateOptions, Model, PREFILL_CHUNK, Session, generate, text::Tokenizer};

/// Largest difference of logits, as a share of the largest: keys and values are f16 on the device.
const TOLERANCE: f32 = 2e-2;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// One of each architecture.
const MODELS: [&str; 3] = ["micro-qwen3_moe", "micro-glm4_moe_lite", "micro-qwen3_next"];

fn model<B: Inference>(backend: &B, name: &str) -> Model<B> {
    let checkpoint = Checkpoint::open(fixtures().join(name)).unwrap();
    Model::load(backend, &checkpoint, checkpoint.config()).unwrap()
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::open(&fixtures().join(name)).unwrap()
}

fn device(options: Options) -> Option<GpuBackend> {
    Some(GpuBackend::on(&crate::support::open(options)?).unwrap())
}

/// More tokens than are read at once.
fn long_text(name: &str) -> Vec<u32> {
    let text = fs::read_to_string(fixtures().join("text/eval.txt")).unwrap();
    let mut ids = tokenizer(name).encode(&text).unwrap();
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
    for name in MODELS {
        let cpu = CpuBackend::default();
        let cpu_model = model(&cpu, name);
        let ids = long_text(name);
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
            let gpu_model = model(&gpu, name);
            let mut session = gpu_model.session(&gpu, ids.len()).unwrap();
            for ((prompt, all), expected) in cases.into_iter().zip(&expected) {
                let found = logits(&mut session, &ids[..all], prompt);
                for (found, expected) in found.iter().zip(expected) {
                    worst = worst.max(difference(found, expected));
                }
            }
        }
        eprintln!("{name}: largest difference of logits: {worst:.2e} of the largest");
        assert!(worst <= TOLERANCE, "{name}: {worst}");
    }
}

#[test]
fn logits_and_text_are_the_references() {
    for name in MODELS {
        let Some(gpu) = device(Options::default()) else {
            return;
        };
        let model = model(&gpu, name);
        let tokenizer = tokenizer(name);
        let json = fs::read(fixtures().join(name).join("reference.json")).unwrap();
        let reference: Value = serde_json::from_slice(&json).unwrap();
        let numbers = |value: &Value| -> Vec<f32> {
            let numbers = value.as_array().unwrap().iter();
            numbers.map(|x| x.as_f64().unwrap() as f32).collect()
        };
        let ids = |value: &Value| -> Vec<u32> {
            let ids = value.as_array().unwrap().iter();
            ids.map(|x| x.as_u64().unwrap() as u32).collect()
        };
        let mut decided = 0;
        for prompt in reference["prompts"].as_array().unwrap() {
            let prompt_ids = ids(&prompt["prompt_ids"]);
            let largest = prompt["logits_max"].as_f64().unwrap() as f32;
            let mut session = model.session(&gpu, 512).unwrap();
            let logits = session.extend(&prompt_ids).unwrap();
            let mut found = logits[..8].to_vec();
            found.extend(
                ids(&prompt["top5_ids"])
                    .iter()
                    .map(|&id| logits[id as usize]),
            );
            let mut expected = numbers(&prompt["logits_first8"]);
            expected.extend(numbers(&prompt["top5_logits"]));
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() <= TOLERANCE * largest, "{name}: {a} for {b}");
            }
            let greedy = ids(&prompt["greedy_ids"]);
            let margins = numbers(&prompt["greedy_margins"]);
            let certain = margins
                .iter()
                .take_while(|&&m| m > TOLERANCE * largest)
                .count();
            let options = GenerateOptions {
                max_tokens: greedy.len(),
                ..GenerateOptions::default()
            };
            let mut session = model.session(&gpu, 512).unwrap();
            let mut silent = |_: &str| ControlFlow::Continue(());
            let found = generate(&mut session, &tokenizer, &prompt_ids, &options, &mut silent);
            assert_eq!(found.unwrap().ids[..certain], greedy[..certain], "{name}");
            decided += certain;
        }
        assert!(decided > 16, "{name}: {decided} tokens decide nothing");
        assert_eq!(gpu.telemetry().counts().fallbacks(), 0);
    }
}

#[test]
fn a_session_goes_back_to_where_it_can() {
    for name in MODELS {
        let Some(gpu) = device(Options::default()) else {
            return;
        };
        let model = model(&gpu, name);
        let ids = &long_text(name)[..20];
        let fresh = model.session(&gpu, 64).unwrap().extend(ids).unwrap();
        let mut session = model.session(&gpu, 64).unwrap();
        let mut other = ids.to_vec();
        other[12] ^= 1;
        let (start, end) = other.split_at(8);
        session.extend(start).unwrap();
        session.extend(end).unwrap();
        // A recurrent state goes back to where a piece of a prompt began.
        let kept = session.rewind(ids);
        assert!(kept == 12 || kept == 8, "{name}: {kept}");
        let again = session.extend(&ids[kept..]).unwrap();
        assert!(difference(&again, &fresh) <= TOLERANCE, "{name}");
        let kept = session.rewind(&ids[..5]);
        let again = session.extend(&ids[kept..]).unwrap();
        assert!(difference(&again, &fresh) <= TOLERANCE, "{name}");
    }
}

#[test]
fn an_eight_bit_cache_is_close() {
    for name in MODELS {
        let cpu = CpuBackend::default();
        let cpu_model = model(&cpu, name);
        let ids = &long_text(name)[..200];
        let mut session = cpu_model.session(&cpu, ids.len()).unwrap();
        let expected = logits(&mut session, ids, 140);
        let Some(gpu) = device(Options {
            cache_bits: CacheBits::Eight,
            ..Options::default()
        }) else {
            return;
        };
        let gpu_model = model(&gpu, name);
        let mut session = gpu_model.session(&gpu, ids.len()).unwrap();
        let found = logits(&mut session, ids, 140);
        let pairs = found.iter().zip(&expected);
        let worst = pairs.fold(0f32, |m, (a, b)| m.max(difference(a, b)));
        eprintln!("{name}: largest difference with an eight-bit cache: {worst:.2e}");
        assert!(worst <= TOLERANCE, "{name}: {worst}");
    }
}

#[test]
fn checks_change_no_bit() {
    for name in MODELS {
        let ids = &long_text(name)[..150];
        let run = |mode| {
            let gpu = device(Options {
                mode,
                ..Options::default()
            })?;
            let model = model(&gpu, name);
            let mut session = model.session(&gpu, ids.len()).unwrap();
            Some(logits(&mut session, ids, 140))
        };
        if let (Some(checked), Some(trusted)) = (run(Mode::Checked), run(Mode::Trusted)) {
            assert!(checked == trusted, "{name}");
        }
    }
}

#[test]
fn a_token_is_one_submission_in_the_same_memory() {
    for name in MODELS {
        let Some(gpu) = device(Options::default()) else {
            return;
        };
        let model = model(&gpu, name);
        let mut session = model.session(&gpu, 64).unwrap();
        let ids = long_text(name);
        session.extend(&ids[..10]).unwrap();
        let mut after_first = None;
        // Beyond the length up to which attention does not share the context, too.
        for &id in &ids[10..60] {
            let before = gpu.counts();
            session.extend(&[id]).unwrap();
            let after = gpu.counts();
            assert_eq!(after.submissions - before.submissions, 1, "{name}");
            let seen = (after.bind_groups, gpu.memory());
            assert_eq!(*after_first.get_or_insert(seen), seen, "{name}");
        }
    }
}
