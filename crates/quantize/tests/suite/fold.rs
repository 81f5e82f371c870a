//! A folded model computes what the original does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use treillage_checkpoint::{Checkpoint, DenseTensor};
use treillage_cpu::CpuBackend;
use treillage_gptq::Rotation;
use treillage_model::{
    Model, Weights,
    plan::{Input, LinearPlan, Space, plan},
};
use treillage_quantize::{Error, Fold, Folded};

/// A random model of both kinds of block, with biases and norms that are far from one, in f32, so that nothing is lost
/// by rounding.
struct Made {
    tied: bool,
    dense: bool,
}

impl Made {
    fn config(&self) -> Value {
        let mut config = json!({
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "hidden_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "intermediate_size": 80,
            "moe_intermediate_size": 48,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": true,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [1],
            "vocab_size": 60,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied,
            "attention_bias": true,
            "torch_dtype": "float32",
        });
        if self.dense {
            config["model_type"] = json!("qwen3");
            config["architectures"] = json!(["Qwen3ForCausalLM"]);
        }
        config
    }

    fn write(&self, dir: &Path) -> Checkpoint {
        let config = self.config();
        let plan = plan(&treillage_checkpoint::ModelConfig::from_json(&config).unwrap());
        let linears = plan.blocks.iter().flat_map(|block| &block.linears);
        let mut tensors: Vec<(String, Vec<usize>)> = Vec::new();
        for linear in linears.chain((!self.tied).then_some(&plan.head)) {
            let shape = linear.shape;
            let name = |leaf: &str| format!("{}.{leaf}", linear.prefix);
            tensors.push((name("weight"), vec![shape.out_features, shape.in_features]));
            if linear.prefix.contains("self_attn") {
                tensors.push((name("bias"), vec![shape.out_features]));
            }
        }
        let kept = plan.blocks.iter().flat_map(|block| &block.kept);
        tensors.extend(kept.chain(&plan.kept).map(|name| {
            let shape = match name {
                name if name.contains("embed_tokens") => vec![60, 96],
                name if name.contains("mlp.gate.") => vec![4, 96],
                name if name.contains("q_norm") || name.contains("k_norm") => vec![32],
                _ => vec![96],
            };
            (name.clone(), shape)
        }));
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let values = tensors.into_iter().map(|(name, shape)| {
            let count = shape.iter().product();
            let (low, high) = match &name {
                name if name.contains("norm") => (0.2, 2.0),
                name if name.contains("embed") => (-1.0, 1.0),
                _ => (-0.2, 0.2),
            };
            let values: Vec<f32> = (0..count).map(|_| rng.random_range(low..high)).collect();
            (name, shape, values)
        });
        write_f32(dir, &config, values.collect())
    }
}

/// A fixture, in f32.
fn fixture(name: &str, dir: &Path) -> Checkpoint {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let source = fixtures.join(name);
    let source = Checkpoint::open(source).unwrap();
    let tensors = source.names().map(|name| {
        let tensor: DenseTensor = source.dense(name).unwrap();
        (name.to_owned(), tensor.shape().to_vec(), tensor.to_f32())
    });
    write_f32(dir, source.raw_config(), tensors.collect())
}

fn write_f32(
    dir: &Path,
    config: &Value,
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
) -> Checkpoint {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let begin = data.len();
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let span = [begin, data.len()];
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": span});
        header.insert(name, entry);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    fs::write(dir.join("model.safetensors"), file).unwrap();
    Checkpoint::open(dir).unwrap()
}

fn logits(weights: &dyn Weights, source: &Checkpoint) -> Vec<f32> {
    let backend = CpuBackend::default();
    let model = Model::load(&backend, weights, source.config()).unwrap();
    let tokens: Vec<u32> = (0..24).map(|i| i * 7 % 60).collect();
    let mut session = model.session(&backend, tokens.len()).unwrap();
    let hidden = session.forward(&tokens).unwrap();
    session.logits(&hidden, 0..tokens.len()).unwrap()
}

/// Root mean square of the difference, relative to that of `expected`.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let magnitude: f64 = expected.iter().map(|&b| square(b)).sum();
    (difference / magnitude).sqrt()
}

fn folds(hidden: usize, head_dim: usize, blocks: usize) -> Vec<Fold> {
    let fitting = |width: usize| {
        let blocks = Rotation::BLOCKS
            .into_iter()
            .filter(move |b| width.is_multiple_of(*b));
        blocks.map(Rotation::Block)
    };
    let mut folds: Vec<Fold> = fitting(hidden)
        .chain([Rotation::None])
        .map(|rotation| Fold {
            residual: Some(rotation),
            values: Vec::new(),
        })
        .collect();
    folds.extend(fitting(head_dim).map(|rotation| Fold {
        residual: None,
        values: vec![rotation; blocks],
    }));
    // Blocks may differ, and both kinds go together.
    folds.push(Fold {
        residual: Some(Rotation::Block(16)),
        values: vec![Rotation::None, Rotation::Block(16)],
    });
    folds
}

fn assert_same_model(source: &Checkpoint) {
    let expected = logits(source, source);
    assert!(expected.iter().all(|logit| logit.is_finite()));
    let config = source.config();
    let plan = plan(config);
    for fold in folds(
        config.hidden_size,
        plan.value_dim.unwrap_or(1),
        plan.blocks.len(),
    ) {
        let folded = Folded::new(source, &plan, fold.clone()).unwrap();
        let error = distance(&logits(&folded, source), &expected);
        assert!(error <= 1e-5, "{fold:?}: {error:e}");
        // It is the same model in other numbers.
        let changed = |name: &str| {
            let [a, b] = [source.dense(name).unwrap(), folded.dense(name).unwrap()];
            a.to_f32() != b.to_f32()
        };
        let block = &plan.blocks[0];
        let moved = |linear: &LinearPlan| changed(&format!("{}.weight", linear.prefix));
        assert_eq!(
            changed("model.layers.0.input_layernorm.weight"),
            fold.residual.is_some()
        );
        let readers = block.linears.iter().chain(&block.kept_linears);
        for linear in readers.filter(|linear| linear.norm.is_some()) {
            assert!(
                moved(linear) || fold.residual.is_none(),
                "{}",
                linear.prefix
            );
        }
        assert_eq!(moved(&block.linears[0]), fold.residual.is_some());
        let inner = |name: &&String| name.contains("_attn.") && name.contains("norm");
        for norm in block.kept.iter().filter(inner) {
            assert!(!changed(norm), "{norm}");
        }
        let rotates = |rotation: Option<&Rotation>| matches!(rotation, Some(Rotation::Block(_)));
        let mut outputs = block.linears.iter();
        let output = outputs
            .find(|l| l.input() == Input::AttentionOutput)
            .unwrap();
        let values = output.reads() == Space::Values && rotates(fold.values.first());
        assert_eq!(moved(output), rotates(fold.residual.as_ref()) || values);
    }
}

#[test]
fn the_fixtures_compute_the_same_logits() {
    for name in ["micro-qwen3_moe", "micro-glm4_moe_lite", "micro-qwen3_next"] {
        let dir = tempfile::tempdir().unwrap();
        assert_same_model(&fixture(name, dir.path()));
    }
}

#[test]
fn made_up_models_compute_the_same_logits() {
    for (tied, dense) in [(false, false), (true, false), (false, true), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        assert_same_model(&Made { tied, dense }.write(dir.path()));
    }
}

#[test]
fn a_tied_head_becomes_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made {
        tied: true,
        dense: true,
    };
    let source = made.write(dir.path());
    let plan = plan(source.config());
    let fold = |residual| Fold {
        residual,
        values: Vec::new(),
    };
    let plain = Folded::new(&source, &plan, fold(None)).unwrap();
    assert!(!plain.has_linear("lm_head"));
    let folded = Folded::new(&source, &plan, fold(Some(Rotation::None))).unwrap();
    assert!(folded.has_linear("lm_head"));
    let [table, head] = ["model.embed_tokens.weight", "lm_head.weight"]
        .map(|name| folded.dense(name).unwrap().to_f32());
    let gain = source.vector("model.norm.weight", 96).unwrap();
    for (row, expected) in head.chunks(96).zip(table.chunks(96)) {
        for ((found, expected), gain) in row.iter().zip(expected).zip(&gain) {
            assert_eq!(*found, expected * gain);
        }
    }
}

#[test]
fn rotations_that_do_not_fit_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made {
        tied: false,
        dense: false,
    };
    let source = made.write(dir.path());
    let plan = plan(source.config());
    for (residual, values, linear) in [
        (
            Some(Rotation::Block(64)),
            vec![],
            "model.layers.0.self_attn.q_proj",
        ),
        (
            None,
            vec![Rotation::None, Rotation::Block(64)],
            "model.layers.1.self_attn.o_proj",
        ),
    ] {
        let error = Folded::new(&source, &plan, Fold { residual, values })
            .err()
            .unwrap();
        assert!(error.to_string().contains(linear), "{error}");
        assert!(
            matches!(error, Error::Rotation { block: 64, .. }),
            "{error}"
        );
    }
}
