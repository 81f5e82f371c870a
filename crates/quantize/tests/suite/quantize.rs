//! Whole runs on made-up checkpoints.

use std::{fs, path::Path};

use half::bf16;
use tempfile::tempdir;
use treillage_checkpoint::{Checkpoint, StoredLinear};
use treillage_cpu::CpuBackend;
use treillage_gptq::Format;
use treillage_model::Model;
use treillage_quantize::{
    AllocationRule, CalibrationTokens, Capture, Error, Event, ExpertTokens, GptqOptions, HeadBits,
    Options, Recipe, Stage, Summary, TrellisOptions, quantize,
};

use crate::support::{Shape, contents, stub::Stub};

fn options() -> Options {
    trellis(|_| ())
}

/// Trellis codes of four bits, but for what `edit` changes.
fn trellis(edit: impl FnOnce(&mut TrellisOptions)) -> Options {
    let mut options = TrellisOptions {
        bits_per_weight: 4.0,
        allocation: AllocationRule::Uniform,
        ..TrellisOptions::default()
    };
    edit(&mut options);
    Options::trellis(options)
}

fn run(
    source: &Path,
    out: &Path,
    tokens: &CalibrationTokens,
    options: &Options,
) -> Result<Summary, Error> {
    let backend = CpuBackend::default();
    quantize(&backend, source, out, tokens, options, &mut |_| ())
}

#[test]
fn every_linear_is_replaced_and_everything_else_kept() {
    let dir = tempdir().unwrap();
    let shape = Shape::small();
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let out = dir.path().join("out");
    let tokens = shape.tokens(4, 32);
    let mut events = Vec::new();
    let backend = CpuBackend::default();
    let summary = quantize(&backend, &source, &out, &tokens, &options(), &mut |event| {
        events.push(event)
    })
    .unwrap();

    let (source, result) = (
        Checkpoint::open(source).unwrap(),
        Checkpoint::open(&out).unwrap(),
    );
    let plan = shape.plan();
    let linears: Vec<_> = plan
        .blocks
        .iter()
        .flat_map(|block| &block.linears)
        .collect();
    for linear in linears.iter().copied().chain([&plan.head]) {
        let stored = result
            .linear(
                &linear.prefix,
                linear.shape.in_features,
                linear.shape.out_features,
            )
            .unwrap();
        let StoredLinear::Trellis(packed) = stored else {
            panic!("{} is dense", linear.prefix);
        };
        let bits = if linear.prefix == "lm_head" { 6 } else { 4 };
        assert_eq!(packed.bits().get(), bits, "{}", linear.prefix);
        assert!(!result.contains(&format!("{}.weight", linear.prefix)));
    }
    let kept = plan.blocks.iter().flat_map(|block| &block.kept);
    for name in kept.chain(&plan.kept) {
        let [a, b] = [&source, &result].map(|c| c.dense(name).unwrap().to_f32());
        assert_eq!(a, b, "{name}");
    }
    Model::load(&backend, &result, result.config()).unwrap();

    assert_eq!(summary.linears.len(), linears.len() + 1);
    assert_eq!(summary.bits_per_weight, 4.0);
    let (last, first) = (summary.linears.last().unwrap(), &summary.linears[0]);
    assert_eq!(last.prefix, "lm_head");
    assert_eq!(first.tokens, 4 * 32);
    assert!(summary.linears.iter().all(|l| l.relative_error < 0.02));

    let Event::Started {
        linears: announced,
        weights,
        rows: 4,
        ..
    } = events[0]
    else {
        panic!("{:?}", events[0]);
    };
    let last = events
        .iter()
        .rev()
        .find_map(|event| match event {
            Event::Encoded {
                linears, weights, ..
            } => Some((*linears, *weights)),
            _ => None,
        })
        .unwrap();
    assert_eq!((announced, weights), last);
    for stage in [
        Stage::Capture,
        Stage::Encode,
        Stage::Write,
        Stage::Forward,
        Stage::Assemble,
    ] {
        let took = |event: &&Event| matches!(event, Event::Took { stage: s, .. } if *s == stage);
        assert!(events.iter().any(|event| took(&event)), "{stage:?}");
    }
}

#[test]
fn a_run_is_a_function_of_its_input() {
    let dir = tempdir().unwrap();
    let shape = Shape::small();
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let tokens = shape.tokens(2, 32);
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let [one, three] = [1, 3].map(|threads| {
        let out = dir.path().join(threads.to_string());
        let summary = pool(threads).install(|| run(&source, &out, &tokens, &options()).unwrap());
        (summary, contents(&out))
    });
    assert!(one == three, "the number of threads changed the result");
}

#[test]
fn experts_without_tokens_are_named_and_still_encoded_with_the_layers_hessian() {
    let dir = tempdir().unwrap();
    let shape = Shape {
        blocks: 1,
        dense: vec![],
        tied: true,
        ..Shape::small()
    };
    // A router of zeros sends every token to the first expert.
    let source = shape.write(&dir.path().join("source"), |name, values| {
        if name.contains("mlp.gate.") {
            values.fill(bf16::ZERO);
        }
    });
    let tokens = shape.tokens(4, 64);
    let options = trellis(|options| options.head_bits = HeadBits::Keep);
    let summary = run(&source, &dir.path().join("out"), &tokens, &options).unwrap();
    let starved: Vec<&str> = summary
        .starved_experts()
        .map(|linear| linear.prefix.as_str())
        .collect();
    let prefix = "model.layers.0.mlp.experts.1";
    let expected = ["gate_proj", "up_proj", "down_proj"].map(|p| format!("{prefix}.{p}"));
    assert_eq!(starved, expected);
    for linear in summary.starved_experts() {
        assert_eq!((linear.tokens, linear.shrinkage), (0, Some(1.0)));
        assert_eq!(linear.fallback, None);
    }
    // A kept head that is the embedding needs no copy.
    let result = Checkpoint::open(dir.path().join("out")).unwrap();
    assert!(!result.has_linear("lm_head"));
}

#[test]
fn bits_go_where_errors_cost() {
    let dir = tempdir().unwrap();
    let shape = Shape::small();
    // A router of zeros sends every token to the first expert, and what values of the first block become is scaled up.
    let source = shape.write(&dir.path().join("source"), |name, values| {
        if name.contains("mlp.gate.") {
            values.fill(bf16::ZERO);
        }
        if name == "model.layers.0.self_attn.o_proj.weight" {
            let scaled = |w: &bf16| bf16::from_f32(30.0 * w.to_f32());
            values.iter_mut().for_each(|w| *w = scaled(w));
        }
    });
    let tokens = shape.tokens(4, 64);
    let rates = |uniform_experts, name: &str| {
        let options = trellis(|options| {
            options.bits_per_weight = 3.0;
            options.allocation = AllocationRule::Sensitivity;
            options.uniform_experts = uniform_experts;
        });
        let mut surveyed = 0;
        let out = dir.path().join(name);
        let backend = Stub::default();
        let summary = quantize(&backend, &source, &out, &tokens, &options, &mut |event| {
            surveyed += usize::from(matches!(event, Event::Surveyed { .. }));
        });
        let summary = summary.unwrap();
        assert_eq!(surveyed, shape.blocks);
        let average = summary.bits_per_weight;
        assert!(average <= 3.0 && average > 2.8, "{average}");
        let blocks = summary.linears.iter().filter(|l| l.prefix != "lm_head");
        let (mut bits, mut weights) = (0, 0);
        for linear in blocks {
            bits += linear.bits * linear.in_features * linear.out_features;
            weights += linear.in_features * linear.out_features;
        }
        assert_eq!(average, bits as f64 / weights as f64);
        move |prefix: &str| {
            let linear = summary.linears.iter().find(|l| l.prefix.ends_with(prefix));
            linear.unwrap().bits
        }
    };
    let free = rates(false, "free");
    assert!(free("layers.0.self_attn.o_proj") > free("layers.1.self_attn.o_proj"));
    for role in ["gate_proj", "up_proj", "down_proj"] {
        let [visited, other] = [0, 1].map(|expert| free(&format!("experts.{expert}.{role}")));
        assert!(visited > other, "{role}: {visited} and {other} bits");
    }
    let uniform = rates(true, "uniform");
    for role in ["gate_proj", "up_proj", "down_proj"] {
        let [one, other] = [0, 1].map(|expert| uniform(&format!("experts.{expert}.{role}")));
        assert_eq!(one, other, "{role}");
    }
}

#[test]
fn the_original_recipe_shows_every_expert_all_tokens() {
    let dir = tempdir().unwrap();
    let shape = Shape {
        blocks: 1,
        dense: vec![],
        tied: true,
        ..Shape::small()
    };
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let tokens = shape.tokens(2, 32);
    let options = Options {
        recipe: Recipe::original(),
        ..options()
    };
    let summary = run(&source, &dir.path().join("out"), &tokens, &options).unwrap();
    assert!(summary.linears.iter().all(|l| l.tokens == 64));
    assert!(summary.linears.iter().all(|l| l.shrinkage.is_none()));
    // The embedding became a head of its own.
    let result = Checkpoint::open(dir.path().join("out")).unwrap();
    assert!(result.contains("lm_head.trellis"));
}

#[test]
fn bad_input_is_refused_by_name_and_leaves_no_checkpoint() {
    let dir = tempdir().unwrap();
    let shape = Shape::small();
    let tokens = shape.tokens(2, 32);
    let broken = "model.layers.1.mlp.experts.1.up_proj.weight";
    let source = shape.write(&dir.path().join("source"), |name, values| {
        if name == broken {
            values[5] = bf16::NAN;
        }
    });
    let out = dir.path().join("out");
    let message = run(&source, &out, &tokens, &options())
        .unwrap_err()
        .to_string();
    assert!(message.contains(broken), "{message}");
    assert!(!message.contains('\n'));
    assert!(!out.exists());

    for (bits_per_weight, said) in [(0.5, "between 1 and 8"), (9.0, "between 1 and 8")] {
        let options = trellis(|options| options.bits_per_weight = bits_per_weight);
        let error = run(&source, &dir.path().join("none"), &tokens, &options).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    let mut options = options();
    options.recipe.damping = f32::NAN;
    let error = run(&source, &dir.path().join("none"), &tokens, &options).unwrap_err();
    assert!(matches!(
        error,
        Error::Setting {
            name: "damping",
            ..
        }
    ));
    assert!(!dir.path().join("none").exists());
}

/// What a user sees in an output folder.
fn contents_visible(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

#[test]
fn an_unfinished_run_is_not_resumed_with_other_settings() {
    let dir = tempdir().unwrap();
    let shape = Shape::small();
    let tokens = shape.tokens(2, 32);
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let out = dir.path().join("out");
    let backend = Stub::failing_after(6);
    quantize(&backend, &source, &out, &tokens, &options(), &mut |_| ()).unwrap_err();
    assert!(contents_visible(&out).is_empty());

    let other = Options {
        seed: 1,
        ..options()
    };
    let refused = |tokens: &CalibrationTokens, options: &Options| {
        let resumed = quantize(
            &Stub::default(),
            &source,
            &out,
            tokens,
            options,
            &mut |_| (),
        );
        resumed.unwrap_err().to_string()
    };
    let error = refused(&tokens, &other);
    assert!(error.contains("seed"), "{error}");
    let error = refused(&shape.tokens(3, 32), &options());
    assert!(error.contains("calibration"), "{error}");
    // Nor on what encodes otherwise.
    let error = run(&source, &out, &tokens, &options()).unwrap_err();
    assert!(error.to_string().contains("device"), "{error}");
    let resumed = quantize(
        &Stub::default(),
        &source,
        &out,
        &tokens,
        &options(),
        &mut |event| {
            assert!(!matches!(event, Event::Started { finished: 0, .. }));
        },
    )
    .unwrap();
    assert_eq!(resumed.linears.len(), 4 + 3 + 4 + 6 + 1);

    fs::create_dir(dir.path().join("occupied")).unwrap();
    fs::write(dir.path().join("occupied/note"), "").unwrap();
    let error = run(&source, &dir.path().join("occupied"), &tokens, &options()).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn a_quantized_checkpoint_is_no_source() {
    let dir = tempdir().unwrap();
    let shape = Shape {
        blocks: 1,
        tied: true,
        ..Shape::small()
    };
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let tokens = shape.tokens(2, 32);
    let out = dir.path().join("out");
    let mut options = options();
    options.recipe.capture = Capture::Once;
    options.recipe.experts = ExpertTokens::All;
    run(&source, &out, &tokens, &options).unwrap();
    let error = run(&out, &dir.path().join("again"), &tokens, &options).unwrap_err();
    assert!(matches!(error, Error::AlreadyQuantized(_)), "{error}");
}

#[test]
fn options_survive_serialisation() {
    for recipe in [Recipe::treillage(), Recipe::original()] {
        let options = Options {
            recipe,
            ..trellis(|options| options.head_bits = HeadBits::Keep)
        };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
    }
    for format in Format::ALL
        .into_iter()
        .filter(|&format| format != Format::Fp4)
    {
        let options = Options::mr_gptq(GptqOptions::new(format));
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
    }
    let parse = |fields| serde_json::from_str::<Options>(fields);
    assert!(parse(r#"{"method": "trellis", "bits_per_weight": 2.5, "seed": 1}"#).is_ok());
    assert!(parse(r#"{"method": "trellis", "head_bits": 9}"#).is_err());
    assert!(parse(r#"{"method": "trellis", "bpw": 3}"#).is_err());
    assert!(parse(r#"{"method": "mr-gptq", "rotation": "7"}"#).is_err());
}
