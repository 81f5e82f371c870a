//! Both architectures with random weights against a naive forward pass in f64.
#![allow(clippy::unwrap_used, reason = "what is not there is a failed test")]

mod files;
mod forward;
mod moments;

use std::path::Path;

use files::{Moe, Sizes};
use treillage_checkpoint::Checkpoint;
use treillage_cpu::CpuBackend;
use treillage_model::{
    Model, evaluate,
    evaluate::Windows,
    plan,
    plan::{Input, Role},
};

const IDS: [u32; 13] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 0];

fn dense(tied: bool) -> Sizes {
    Sizes {
        layers: 2,
        hidden: 48,
        inner: 80,
        vocabulary: 59,
        heads: 6,
        kv_heads: 2,
        head_dim: 16,
        theta: 10_000.0,
        epsilon: 1e-6,
        tied,
        moe: None,
    }
}

/// Dense blocks 0, 2 and 3, experts in block 1 only.
fn mixed(normalize: bool) -> Sizes {
    Sizes {
        layers: 4,
        moe: Some(Moe {
            experts: 5,
            top_k: 2,
            inner: 32,
            normalize,
            sparse_step: 2,
            dense_layers: vec![3],
        }),
        ..dense(false)
    }
}

fn checkpoint(dir: &Path) -> Checkpoint {
    Checkpoint::open(dir).unwrap()
}

fn assert_logits(sizes: &Sizes, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let tensors = files::write(dir.path(), sizes, seed);
    let (expected, _) = forward::logits(sizes, &tensors, &IDS);

    let backend = CpuBackend::default();
    let checkpoint = checkpoint(dir.path());
    let model = Model::load(&backend, &checkpoint, checkpoint.config()).unwrap();
    let mut session = model.session(&backend, IDS.len()).unwrap();
    let hidden = session.forward(&IDS).unwrap();
    let found = session.logits(&hidden, 0..IDS.len()).unwrap();
    let expected = expected.concat();
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (a, b) in found.iter().zip(&expected) {
        assert!((f64::from(*a) - b).abs() <= 1e-4 * largest, "{a} for {b}");
    }
}

#[test]
fn dense_logits_are_the_naive_ones() {
    assert_logits(&dense(false), 1);
}

#[test]
fn tied_logits_are_the_naive_ones() {
    assert_logits(&dense(true), 2);
}

#[test]
fn mixed_dense_and_expert_blocks_are_the_naive_ones() {
    assert_logits(&mixed(true), 3);
    assert_logits(&mixed(false), 4);
}

#[test]
fn the_plan_names_every_tensor_once() {
    for sizes in [dense(true), dense(false), mixed(true)] {
        let dir = tempfile::tempdir().unwrap();
        let tensors = files::write(dir.path(), &sizes, 6);
        let plan = plan(checkpoint(dir.path()).config());
        assert_eq!(plan.tied, sizes.tied);
        let mut planned = plan.kept.clone();
        let blocks = plan.blocks.iter().flat_map(|block| &block.linears);
        for linear in blocks.chain((!plan.tied).then_some(&plan.head)) {
            let name = format!("{}.weight", linear.prefix);
            let shape = [linear.shape.out_features, linear.shape.in_features];
            assert_eq!(tensors[&name].0, shape, "{name}");
            planned.push(name);
        }
        planned.extend(plan.blocks.iter().flat_map(|block| block.kept.clone()));
        planned.sort();
        assert_eq!(planned, tensors.keys().cloned().collect::<Vec<_>>());
    }
    let dir = tempfile::tempdir().unwrap();
    files::write(dir.path(), &mixed(true), 6);
    let plan = plan(checkpoint(dir.path()).config());
    let last = plan.blocks[1].linears.last().unwrap();
    assert_eq!((last.role, last.expert), (Role::ExpertDown, Some(4)));
    assert_eq!(last.input(), Input::ExpertDown(4));
}

#[test]
fn a_comparison_is_the_naive_one() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let sizes = dense(false);
    let backend = CpuBackend::default();
    let loaded = [7, 8].map(|seed| {
        let dir = dirs[seed as usize - 7].path();
        let tensors = files::write(dir, &sizes, seed);
        let checkpoint = checkpoint(dir);
        (
            Model::load(&backend, &checkpoint, checkpoint.config()).unwrap(),
            tensors,
        )
    });
    let [(model, ours), (reference, theirs)] = &loaded;
    let (mut kl, mut agree, mut nll, mut reference_nll, mut scored) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for window in IDS.chunks_exact(6) {
        let probabilities = |tensors| -> Vec<Vec<f64>> {
            let (logits, _) = forward::logits(&sizes, tensors, window);
            logits
                .iter()
                .map(|row| {
                    let total: f64 = row.iter().map(|x| x.exp()).sum();
                    row.iter().map(|x| x.exp() / total).collect()
                })
                .collect()
        };
        let (q, p) = (probabilities(ours), probabilities(theirs));
        let top = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
        for t in 0..window.len() - 1 {
            let target = window[t + 1] as usize;
            kl += p[t]
                .iter()
                .zip(&q[t])
                .map(|(p, q)| p * (p / q).ln())
                .sum::<f64>();
            agree += f64::from(u8::from(top(&p[t]) == top(&q[t])));
            nll -= q[t][target].ln();
            reference_nll -= p[t][target].ln();
            scored += 1.0;
        }
    }
    let mut session = model.session(&backend, 6).unwrap();
    let mut other = reference.session(&backend, 6).unwrap();
    let windows = Windows {
        length: 6,
        limit: None,
    };
    let found = evaluate::compare(&mut session, &mut other, &IDS, windows, &mut |_| ()).unwrap();
    assert_eq!(
        (found.model.windows, found.model.scored),
        (2, scored as usize)
    );
    for (found, expected) in [
        (found.kl_divergence, kl / scored),
        (found.top1_agreement, agree / scored),
        (found.model.nll, nll / scored),
        (found.reference.nll, reference_nll / scored),
    ] {
        assert!((found - expected).abs() < 1e-4, "{found} for {expected}");
    }
    let alone = evaluate::perplexity(&mut session, &IDS, windows, &mut |_| ()).unwrap();
    assert!((alone.nll - found.model.nll).abs() < 1e-9);
    let itself = evaluate::compare(
        &mut session,
        &mut model.session(&backend, 6).unwrap(),
        &IDS,
        windows,
        &mut |_| (),
    )
    .unwrap();
    assert_eq!((itself.kl_divergence, itself.top1_agreement), (0.0, 1.0));
}

#[test]
fn a_deviation_is_the_naive_one() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let sizes = dense(true);
    let backend = CpuBackend::default();
    let loaded = [0, 1].map(|i| {
        let tensors = files::write(dirs[i].path(), &sizes, 10 + i as u64);
        let checkpoint = checkpoint(dirs[i].path());
        let model = Model::load(&backend, &checkpoint, checkpoint.config()).unwrap();
        (model, forward::logits(&sizes, &tensors, &IDS).0.concat())
    });
    let [(model, ours), (reference, theirs)] = &loaded;
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let difference = squares(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
    let expected = (difference / squares(&mut theirs.iter().copied())).sqrt();

    let mut session = model.session(&backend, IDS.len()).unwrap();
    let mut other = reference.session(&backend, IDS.len()).unwrap();
    let found = evaluate::deviation(&mut session, &mut other, &IDS).unwrap();
    assert_eq!(found.tokens, IDS.len());
    assert!((found.relative_rms - expected).abs() < 1e-4 * expected);
    let mut again = model.session(&backend, IDS.len()).unwrap();
    let none = evaluate::deviation(&mut session, &mut again, &IDS).unwrap();
    let figures = (none.relative_rms, none.kl_divergence, none.top1_agreement);
    assert_eq!(figures, (0.0, 0.0, 1.0));
    assert!(evaluate::deviation(&mut session, &mut other, &[]).is_err());
}

#[test]
fn names_the_weight_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = dense(true);
    files::write(dir.path(), &sizes, 9);
    let config = dir.path().join("config.json");
    let original = std::fs::read_to_string(&config).unwrap();
    let failure = |field: &str, value: serde_json::Value| {
        let mut json: serde_json::Value = serde_json::from_str(&original).unwrap();
        json[field] = value;
        std::fs::write(&config, json.to_string()).unwrap();
        let checkpoint = checkpoint(dir.path());
        let loaded = Model::load(&CpuBackend::default(), &checkpoint, checkpoint.config());
        loaded.err().unwrap().to_string()
    };
    for (field, value, name) in [
        ("tie_word_embeddings", false.into(), "lm_head.weight"),
        ("vocab_size", 60.into(), "model.embed_tokens.weight"),
        ("num_hidden_layers", 3.into(), "model.layers.2."),
        (
            "intermediate_size",
            81.into(),
            "model.layers.0.mlp.gate_proj",
        ),
        ("head_dim", 18.into(), "model.layers.0.self_attn."),
    ] {
        let message = failure(field, value);
        assert!(message.contains(name), "{field}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}
