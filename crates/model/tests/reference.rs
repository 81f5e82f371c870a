//! The fixture models against what transformers computes with it.
#![allow(clippy::unwrap_used, reason = "what is not there is a failed test")]

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use treillage_checkpoint::Checkpoint;
use treillage_cpu::CpuBackend;
use treillage_model::{
    GenerateOptions, Model, PREFILL_CHUNK, SamplingOptions, evaluate,
    evaluate::Windows,
    generate,
    generate::Finish,
    plan,
    text::{ChatTemplate, Message, SpecialTokens, Tokenizer},
};

#[derive(Deserialize)]
struct Reference {
    prompts: Vec<Prompt>,
    ppl_first_windows: Perplexity,
    eval_ids_first32: Vec<u32>,
}

#[derive(Deserialize)]
struct Prompt {
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    greedy_text: String,
    greedy_margins: Vec<f32>,
    logits_first8: Vec<f32>,
    logits_sum: f64,
    logits_max: f32,
    top5_ids: Vec<usize>,
    top5_logits: Vec<f32>,
}

#[derive(Deserialize)]
struct Perplexity {
    windows: usize,
    scored: usize,
    nll: f64,
    ppl: f64,
}

/// The reference's margins are exact to its own f32; greedier choices than this are not to be expected to agree.
const SMALLEST_MARGIN: f32 = 1e-3;
const CONTEXT: usize = 512;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// One of each architecture.
const MODELS: [&str; 3] = ["micro-qwen3_moe", "micro-glm4_moe_lite", "micro-qwen3_next"];

fn models() -> impl Iterator<Item = PathBuf> {
    MODELS.into_iter().map(|name| fixtures().join(name))
}

/// For what does not depend on the architecture.
fn fixture() -> PathBuf {
    fixtures().join(MODELS[0])
}

/// Whether the model has a state that cannot be taken back token by token.
fn is_recurrent(dir: &Path) -> bool {
    dir.ends_with("micro-qwen3_next")
}

fn reference(dir: &Path) -> Reference {
    let json = fs::read(dir.join("reference.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn load(dir: &Path) -> (CpuBackend, Model<CpuBackend>) {
    let backend = CpuBackend::default();
    let checkpoint = Checkpoint::open(dir).unwrap();
    let model = Model::load(&backend, &checkpoint, checkpoint.config()).unwrap();
    (backend, model)
}

fn prompt_logits(backend: &CpuBackend, model: &Model<CpuBackend>, ids: &[u32]) -> Vec<f32> {
    model
        .session(backend, CONTEXT)
        .unwrap()
        .extend(ids)
        .unwrap()
}

/// Within 1e-3 of the largest logit: logits near zero are differences of large numbers.
fn assert_close(found: &[f32], expected: &[f32], largest: f32) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= 1e-3 * largest, "{a} for {b}");
    }
}

/// Equal but for the order of additions, which may depend on how many rows are multiplied at once.
fn assert_same(found: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert_close(found, expected, 0.1 * largest);
}

#[test]
fn tokens_are_the_references() {
    for dir in models() {
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let reference = reference(&dir);
        for prompt in &reference.prompts {
            assert_eq!(tokenizer.encode(&prompt.prompt).unwrap(), prompt.prompt_ids);
            let text = tokenizer
                .decode(&prompt.greedy_ids, SpecialTokens::Keep)
                .unwrap();
            assert_eq!(text, prompt.greedy_text);
        }
        let eval = fs::read_to_string(fixtures().join("text/eval.txt")).unwrap();
        let ids = tokenizer.encode(&eval).unwrap();
        assert_eq!(ids[..32], reference.eval_ids_first32);
    }
}

#[test]
fn the_chat_template_makes_the_references_prompt() {
    let template = ChatTemplate::open(&fixture()).unwrap();
    let prompt = template
        .render(
            &[Message::new("user", "What is ownership?")],
            true,
            &serde_json::Map::new(),
        )
        .unwrap();
    assert!(
        reference(&fixture())
            .prompts
            .iter()
            .any(|p| p.prompt == prompt),
        "{prompt}"
    );
}

#[test]
fn plans_name_every_tensor_once() {
    for dir in models() {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let plan = plan(checkpoint.config());
        let mut planned = plan.kept.clone();
        let blocks = plan.blocks.iter().flat_map(|block| &block.linears);
        planned.extend(
            blocks
                .chain([&plan.head])
                .map(|l| format!("{}.weight", l.prefix)),
        );
        planned.extend(plan.blocks.iter().flat_map(|block| block.kept.clone()));
        planned.sort();
        let mut names: Vec<_> = checkpoint.names().map(String::from).collect();
        names.sort();
        assert_eq!(planned, names);
    }
}

#[test]
fn logits_are_the_references() {
    for dir in models() {
        let (backend, model) = load(&dir);
        for prompt in reference(&dir).prompts {
            let logits = prompt_logits(&backend, &model, &prompt.prompt_ids);
            assert_eq!(logits.len(), 512);
            assert_close(&logits[..8], &prompt.logits_first8, prompt.logits_max);
            let top: Vec<f32> = prompt.top5_ids.iter().map(|&id| logits[id]).collect();
            assert_close(&top, &prompt.top5_logits, prompt.logits_max);
            let sum: f64 = logits.iter().map(|&x| f64::from(x)).sum();
            assert!((sum - prompt.logits_sum).abs() <= 1e-3 * prompt.logits_sum.abs());
        }
    }
}

#[test]
fn greedy_continuations_are_the_references() {
    for dir in models() {
        let (backend, model) = load(&dir);
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let mut session = model.session(&backend, CONTEXT).unwrap();
        let mut decided = 0;
        for prompt in reference(&dir).prompts {
            let certain = prompt
                .greedy_margins
                .iter()
                .take_while(|&&margin| margin > SMALLEST_MARGIN * prompt.logits_max)
                .count();
            let options = GenerateOptions {
                max_tokens: prompt.greedy_ids.len(),
                ..GenerateOptions::default()
            };
            let mut streamed = String::new();
            let mut emit = |piece: &str| {
                streamed.push_str(piece);
                ControlFlow::Continue(())
            };
            let continuation = generate(
                &mut session,
                &tokenizer,
                &prompt.prompt_ids,
                &options,
                &mut emit,
            )
            .unwrap();
            decided += certain;
            assert_eq!(continuation.ids[..certain], prompt.greedy_ids[..certain]);
            assert_eq!(continuation.finish, Finish::MaxTokens);
            assert_eq!(streamed, continuation.text);
        }
        assert!(decided > 64, "the fixture decides nothing");
    }
}

#[test]
fn perplexity_is_the_references() {
    for dir in models() {
        let (backend, model) = load(&dir);
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let expected = reference(&dir).ppl_first_windows;
        let eval = fs::read_to_string(fixtures().join("text/eval.txt")).unwrap();
        let tokens = tokenizer.encode(&eval).unwrap();
        let windows = Windows {
            length: CONTEXT,
            limit: Some(expected.windows),
        };
        let mut session = model.session(&backend, CONTEXT).unwrap();
        let mut done = Vec::new();
        let found = evaluate::perplexity(&mut session, &tokens, windows, &mut |progress| {
            assert_eq!(progress.windows, expected.windows);
            done.push(progress.done);
        })
        .unwrap();
        assert_eq!(done, (1..=expected.windows).collect::<Vec<_>>());
        assert_eq!(found.scored, expected.scored);
        assert!((found.nll - expected.nll).abs() < 1e-4, "{}", found.nll);
        let relative = found.perplexity / expected.ppl - 1.0;
        assert!(
            relative.abs() < 1e-3,
            "{} for {}",
            found.perplexity,
            expected.ppl
        );
    }
}

#[test]
fn the_config_as_transformers_5_spells_it_is_the_same_model() {
    for source in models() {
        let dir = tempfile::tempdir().unwrap();
        for (from, to) in [
            ("model.safetensors", "model.safetensors"),
            ("config.hf5.json", "config.json"),
        ] {
            fs::copy(source.join(from), dir.path().join(to)).unwrap();
        }
        let (backend, published) = load(&source);
        let (_, saved_again) = load(dir.path());
        let ids = &reference(&source).prompts[0].prompt_ids;
        assert_eq!(
            prompt_logits(&backend, &published, ids),
            prompt_logits(&backend, &saved_again, ids)
        );
    }
}

#[test]
fn token_by_token_is_prefill_in_chunks() {
    for dir in models() {
        let (backend, model) = load(&dir);
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let eval = fs::read_to_string(fixtures().join("text/eval.txt")).unwrap();
        // More than one chunk of prefill, and a rest.
        let ids = &tokenizer.encode(&eval[..8000]).unwrap()[..PREFILL_CHUNK + 100];
        let mut prefilled = model.session(&backend, ids.len()).unwrap();
        let mut decoded = model.session(&backend, ids.len()).unwrap();
        let mut by_token = Vec::new();
        for id in ids {
            by_token = decoded.extend(&[*id]).unwrap();
        }
        let by_chunk = prefilled.extend(ids).unwrap();
        assert_same(&by_token, &by_chunk);
        assert_eq!((prefilled.len(), decoded.len()), (ids.len(), ids.len()));
    }
}

#[test]
fn a_session_takes_back_and_reuses_what_it_has_read() {
    for dir in models() {
        let (backend, model) = load(&dir);
        let ids = &reference(&dir).prompts[0].prompt_ids;
        let fresh = prompt_logits(&backend, &model, ids);
        let mut session = model.session(&backend, CONTEXT).unwrap();
        let mut other = ids.clone();
        other[12] += 1;
        // A state goes back to where the last of several tokens were read, here after eight, and to the beginning.
        let (start, end) = other.split_at(8);
        session.extend(start).unwrap();
        session.extend(end).unwrap();
        let kept = session.rewind(ids);
        assert_eq!(kept, if is_recurrent(&dir) { 8 } else { 12 });
        assert_eq!(session.len(), kept);
        assert_same(&session.extend(&ids[kept..]).unwrap(), &fresh);
        // The last token is read again for its logits.
        let kept = session.rewind(ids);
        assert_eq!(kept, if is_recurrent(&dir) { 8 } else { ids.len() - 1 });
        assert_same(&session.extend(&ids[kept..]).unwrap(), &fresh);
        assert_eq!(
            session.rewind(&ids[..5]),
            if is_recurrent(&dir) { 0 } else { 4 }
        );
        let kept = session.len();
        assert_same(&session.extend(&ids[kept..]).unwrap(), &fresh);
    }
}

#[test]
fn a_failed_step_leaves_the_session_as_it_was() {
    for dir in models() {
        let (backend, model) = load(&dir);
        let ids = &reference(&dir).prompts[0].prompt_ids;
        let mut session = model.session(&backend, ids.len() + 1).unwrap();
        let (start, end) = ids.split_at(4);
        session.extend(start).unwrap();
        let outside = session.extend(&[512]).unwrap_err().to_string();
        assert!(outside.contains("512"), "{outside}");
        let too_many = session
            .extend(&[ids.as_slice(), ids].concat())
            .unwrap_err()
            .to_string();
        assert!(
            too_many.contains("the cache holds 21 tokens, 44 are needed"),
            "{too_many}"
        );
        assert!(session.extend(&[]).is_err());
        assert_eq!(session.len(), start.len());
        assert_same(
            &session.extend(end).unwrap(),
            &prompt_logits(&backend, &model, ids),
        );
    }
}

#[test]
fn generation_stops_where_it_should() {
    let (backend, model) = load(&fixture());
    let tokenizer = Tokenizer::open(&fixture()).unwrap();
    let reference = reference(&fixture());
    let prompt = &reference.prompts[0];
    let run = |capacity: usize, options: &GenerateOptions, pieces: usize| {
        let mut session = model.session(&backend, capacity).unwrap();
        let mut left = pieces;
        let mut emit = |_: &str| {
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        generate(
            &mut session,
            &tokenizer,
            &prompt.prompt_ids,
            options,
            &mut emit,
        )
        .unwrap()
    };
    let options = GenerateOptions {
        max_tokens: 32,
        ..GenerateOptions::default()
    };
    let many = usize::MAX;

    let full = run(prompt.prompt_ids.len() + 3, &options, many);
    assert_eq!((full.finish, full.ids.len()), (Finish::ContextFull, 4));

    let stop_ids = vec![508, prompt.greedy_ids[5]];
    let stopped = run(
        CONTEXT,
        &GenerateOptions {
            stop_ids,
            ..options.clone()
        },
        many,
    );
    assert_eq!((stopped.finish, stopped.ids.len()), (Finish::StopToken, 6));
    let text = tokenizer
        .decode(&prompt.greedy_ids[..5], SpecialTokens::Skip)
        .unwrap();
    assert_eq!(stopped.text, text);

    let stop_strings = vec!["to be".to_owned()];
    let stopped = run(
        CONTEXT,
        &GenerateOptions {
            stop_strings,
            ..options.clone()
        },
        many,
    );
    assert_eq!(stopped.finish, Finish::StopString);
    assert_eq!(stopped.text, " guaranteed ");

    let cancelled = run(CONTEXT, &options, 3);
    assert_eq!(
        (cancelled.finish, cancelled.ids.len()),
        (Finish::Cancelled, 3)
    );

    let none = run(CONTEXT, &GenerateOptions::default(), many);
    assert_eq!((none.finish, none.text.as_str()), (Finish::MaxTokens, ""));
}

#[test]
fn a_second_turn_reuses_the_first() {
    for dir in models() {
        let (backend, model) = load(&dir);
        let tokenizer = Tokenizer::open(&dir).unwrap();
        let mut session = model.session(&backend, CONTEXT).unwrap();
        let options = GenerateOptions {
            max_tokens: 8,
            sampling: SamplingOptions {
                temperature: 1.0,
                seed: 5,
                ..SamplingOptions::default()
            },
            ..GenerateOptions::default()
        };
        let ids = &reference(&dir).prompts[3].prompt_ids;
        let mut emit = |_: &str| ControlFlow::Continue(());
        let first = generate(&mut session, &tokenizer, ids, &options, &mut emit).unwrap();
        assert_eq!(first.reused_tokens, 0);
        let next = [ids.as_slice(), &first.ids, &[198]].concat();
        let second = generate(&mut session, &tokenizer, &next, &options, &mut emit).unwrap();
        // All but the last token of the first turn was read.
        assert_eq!(second.reused_tokens, ids.len() + first.ids.len() - 1);
        let mut fresh = model.session(&backend, CONTEXT).unwrap();
        let afresh = generate(&mut fresh, &tokenizer, &next, &options, &mut emit).unwrap();
        assert_eq!(second.ids, afresh.ids);
    }
}
