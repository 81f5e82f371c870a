//! MR-GPTQ from end to end, on the repository's trained model and on made-up ones.

use std::path::{Path, PathBuf};

use half::bf16;
use tempfile::tempdir;
use treillage_checkpoint::{Checkpoint, Export, StoredLinear};
use treillage_cpu::{Arithmetic, CpuBackend};
use treillage_gptq::{Format, IntBits, Rotation, Scales, Solver};
use treillage_model::{
    Model,
    evaluate::{Comparison, Windows, compare},
    plan::plan,
    text::Tokenizer,
};
use treillage_quantize::{
    CalibrationTokens, Error, Event, GptqOptions, Options, RotationRule, Summary, quantize,
};

use crate::support::{Shape, contents};

const INT4: Format = Format::Int(IntBits::Four);

fn run(
    source: &Path,
    out: &Path,
    tokens: &CalibrationTokens,
    options: GptqOptions,
) -> Result<Summary, Error> {
    let (backend, options) = (CpuBackend::default(), Options::mr_gptq(options));
    quantize(&backend, source, out, tokens, &options, &mut |_| ())
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fixtures")
        .join(name)
}

/// How far the model in `dir` is from the fixture, on text that no calibration saw.
fn distance(dir: &Path) -> Comparison {
    let backend = CpuBackend::new(treillage_cpu::Options {
        arithmetic: Arithmetic::Exact,
        ..treillage_cpu::Options::default()
    });
    let load = |dir: &Path| {
        let checkpoint = Checkpoint::open(dir).unwrap();
        Model::load(&backend, &checkpoint, checkpoint.config()).unwrap()
    };
    let source = fixture("micro-qwen3_moe");
    let (model, reference) = (load(dir), load(&source));
    let text = std::fs::read_to_string(fixture("text/eval.txt")).unwrap();
    let tokens = Tokenizer::open(&source).unwrap().encode(&text).unwrap();
    let windows = Windows {
        length: 256,
        limit: Some(6),
    };
    let mut session = model.session(&backend, windows.length).unwrap();
    let mut reference = reference.session(&backend, windows.length).unwrap();
    compare(&mut session, &mut reference, &tokens, windows, &mut |_| ()).unwrap()
}

#[test]
fn every_format_in_every_layout_is_closer_than_rounding() {
    let dir = tempdir().unwrap();
    let source = fixture("micro-qwen3_moe");
    let tokenizer = Tokenizer::open(&source).unwrap();
    let text = [fixture("text/calib.txt")];
    let tokens = CalibrationTokens::read(&tokenizer, &text, 32, 128).unwrap();
    for format in Format::ALL {
        for export in Export::ALL
            .into_iter()
            .filter(|export| export.holds(format))
        {
            let options = GptqOptions {
                export,
                ..GptqOptions::new(format)
            };
            let rounded = GptqOptions {
                solver: Solver::Rtn,
                rotation: RotationRule::Fixed(Rotation::None),
                ..options.clone()
            };
            let [found, rounded] = [("auto", options), ("rtn", rounded)].map(|(name, options)| {
                let out = dir.path().join(format!("{format}-{export}-{name}"));
                let summary = run(&source, &out, &tokens, options).unwrap();
                // Two layers of four attention projections and eight experts of three; the head is kept.
                assert_eq!(summary.linears.len(), 2 * (4 + 8 * 3));
                assert!(summary.linears.iter().all(|l| l.fallback.is_none()));
                let errors: f64 = summary.linears.iter().map(|l| l.relative_error).sum();
                (errors, distance(&out))
            });
            let ([error, error_rounded], [to, to_rounded]) =
                ([found.0, rounded.0], [found.1, rounded.1]);
            let [kl, kl_rounded] = [&to, &to_rounded].map(|c| c.kl_divergence);
            println!("{format} {export}: KL {kl:.6}, rounded {kl_rounded:.6}");
            assert!(
                error < 0.7 * error_rounded,
                "{format} {export}: {error} ≥ {error_rounded}"
            );
            // Two bits cost what they cost.
            let bound = if format == Format::Int(IntBits::Two) {
                1.5
            } else {
                1.1
            };
            let loss = to.model.perplexity / to.reference.perplexity;
            assert!(loss < bound, "{format} {export}: {loss}");
            // Of eight bits what is left is a token here and there that goes to another expert.
            match format {
                Format::Int(IntBits::Eight) => assert!(kl < 0.003, "{format} {export}: {kl}"),
                _ => assert!(kl < kl_rounded, "{format} {export}: {kl} ≥ {kl_rounded}"),
            }
        }
    }
}

#[test]
fn every_linear_is_replaced_and_the_rest_keeps_its_bits() {
    let dir = tempdir().unwrap();
    let shape = Shape::small();
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let out = dir.path().join("out");
    let tokens = shape.tokens(4, 32);
    let options = GptqOptions {
        group: 32,
        rotation: RotationRule::Fixed(Rotation::None),
        ..GptqOptions::new(INT4)
    };
    let summary = run(&source, &out, &tokens, options).unwrap();
    assert_eq!(summary.bits_per_weight, 4.0 + 16.0 / 32.0);
    let (source, result) = (
        Checkpoint::open(source).unwrap(),
        Checkpoint::open(&out).unwrap(),
    );
    let plan = plan(source.config());
    let linears: Vec<_> = plan
        .blocks
        .iter()
        .flat_map(|block| &block.linears)
        .collect();
    assert_eq!(summary.linears.len(), linears.len());
    for linear in linears {
        let (inputs, outputs) = (linear.shape.in_features, linear.shape.out_features);
        let stored = result.linear(&linear.prefix, inputs, outputs).unwrap();
        let StoredLinear::Grouped(grouped) = stored else {
            panic!("{} is {stored:?}", linear.prefix);
        };
        assert_eq!(grouped.parts().group, 32);
        assert!(matches!(grouped.parts().scales, Scales::Bf16(_)));
        let mut summaries = summary.linears.iter();
        let summary = summaries.find(|l| l.prefix == linear.prefix).unwrap();
        assert_eq!((summary.bits, summary.rotation), (4, None));
        assert!(summary.relative_error > 0.0 && summary.relative_error < 0.02);
        assert_eq!((summary.attempts, summary.dead_inputs), (Some(1), Some(0)));
    }
    let kept = plan.blocks.iter().flat_map(|block| &block.kept);
    let head = "lm_head.weight".to_owned();
    for name in kept.chain(&plan.kept).chain([&head]) {
        let [a, b] = [&source, &result].map(|c| c.tensor(name).unwrap());
        assert_eq!((a.dtype(), a.bytes()), (b.dtype(), b.bytes()), "{name}");
    }
}

#[test]
fn linears_that_engines_fuse_share_a_factor() {
    let dir = tempdir().unwrap();
    let shape = Shape::small();
    // Of very different size, so that factors of their own would differ.
    let source = shape.write(&dir.path().join("source"), |name, values| {
        if name.contains("k_proj") || name.contains("up_proj") {
            for value in values {
                *value = bf16::from_f32(3.0 * value.to_f32());
            }
        }
    });
    let tokens = shape.tokens(4, 32);
    for export in [Export::CompressedTensors, Export::FpQuant] {
        let options = GptqOptions {
            export,
            ..GptqOptions::new(Format::NvFp4)
        };
        let out = dir.path().join(export.name());
        run(&source, &out, &tokens, options).unwrap();
        let result = Checkpoint::open(out).unwrap();
        let plan = plan(result.config());
        let linears: Vec<_> = plan
            .blocks
            .iter()
            .flat_map(|block| &block.linears)
            .collect();
        let mut shared = 0;
        for fused in linears.chunk_by(|a, b| a.input() == b.input()) {
            let factors = fused.iter().map(|linear| {
                let (inputs, outputs) = (linear.shape.in_features, linear.shape.out_features);
                match result.linear(&linear.prefix, inputs, outputs).unwrap() {
                    StoredLinear::Grouped(grouped) => match grouped.parts().scales {
                        Scales::E4m3 { global, .. } => global,
                        ref other => panic!("{other:?}"),
                    },
                    other => panic!("{other:?}"),
                }
            });
            let factors: Vec<f32> = factors.collect();
            assert!(
                factors.iter().all(|factor| *factor == factors[0]),
                "{factors:?}"
            );
            shared += factors.len() - 1;
        }
        // q, k, v of two blocks, gate and up of a network and of two experts.
        assert_eq!(shared, 2 * 2 + 1 + 2);
    }
}

#[test]
fn rotations_that_are_asked_for_are_made() {
    let dir = tempdir().unwrap();
    let shape = Shape {
        tied: true,
        ..Shape::small()
    };
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let tokens = shape.tokens(4, 32);
    let rotated_by = |summary: &Summary, name: &str| {
        let mut linears = summary.linears.iter().filter(|l| l.prefix.ends_with(name));
        let first = linears.next().unwrap().rotation;
        assert!(linears.all(|linear| linear.rotation == first));
        first
    };
    let options = |export, block| GptqOptions {
        export,
        rotation: RotationRule::Fixed(Rotation::Block(block)),
        ..GptqOptions::new(Format::MxFp4)
    };

    // Folded: what reads the residual stream and the values, which are 64 wide, but not what follows SiLU.
    let out = dir.path().join("folded");
    let summary = run(
        &source,
        &out,
        &tokens,
        options(Export::CompressedTensors, 64),
    )
    .unwrap();
    for (name, rotation) in [
        ("q_proj", Some(64)),
        ("up_proj", Some(64)),
        ("o_proj", Some(64)),
        ("down_proj", None),
    ] {
        assert_eq!(rotated_by(&summary, name), rotation, "{name}");
    }
    let result = Checkpoint::open(&out).unwrap();
    let norm = "model.layers.1.post_attention_layernorm.weight";
    assert!(
        result
            .dense(norm)
            .unwrap()
            .to_f32()
            .iter()
            .all(|gain| *gain == 1.0)
    );
    // The head took the final gain up and is tied no more.
    assert!(result.has_linear("lm_head"));
    assert!(!result.config().tie_word_embeddings);

    // Too wide for the values alone.
    let out = dir.path().join("wide");
    let summary = run(
        &source,
        &out,
        &tokens,
        options(Export::CompressedTensors, 128),
    )
    .unwrap();
    assert_eq!(rotated_by(&summary, "q_proj"), Some(128));
    assert_eq!(rotated_by(&summary, "o_proj"), None);

    // By itself: everything, and nothing else changes.
    let out = dir.path().join("online");
    let summary = run(&source, &out, &tokens, options(Export::FpQuant, 32)).unwrap();
    assert!(
        summary
            .linears
            .iter()
            .all(|linear| linear.rotation == Some(32))
    );
    let result = Checkpoint::open(&out).unwrap();
    assert!(!result.has_linear("lm_head"));
    let original = Checkpoint::open(&source).unwrap();
    let [a, b] = [&original, &result].map(|c| c.dense(norm).unwrap().to_f32());
    assert_eq!(a, b);
}

#[test]
fn experts_without_tokens_are_encoded_with_the_layers_hessian_or_rounded() {
    let dir = tempdir().unwrap();
    let shape = Shape {
        blocks: 1,
        dense: vec![],
        ..Shape::small()
    };
    // A router of zeros sends every token to the first expert.
    let source = shape.write(&dir.path().join("source"), |name, values| {
        if name.contains("mlp.gate.") {
            values.fill(bf16::ZERO);
        }
    });
    let tokens = shape.tokens(4, 64);
    let gptq = GptqOptions {
        group: 64,
        ..GptqOptions::new(INT4)
    };
    let summary = run(&source, &dir.path().join("out"), &tokens, gptq.clone()).unwrap();
    let starved: Vec<_> = summary.starved_experts().collect();
    assert_eq!(starved.len(), 3);
    for linear in starved {
        assert!(linear.prefix.contains("experts.1."), "{}", linear.prefix);
        assert_eq!((linear.tokens, linear.fallback.as_deref()), (0, None));
    }

    // Without a layer to borrow from, what no token reaches is rounded to nearest, and said to be.
    let mut options = Options::mr_gptq(gptq);
    options.recipe.experts = treillage_quantize::ExpertTokens::Routed {
        weighting: treillage_backend::RouteWeighting::Squared,
        shrinkage: 0.0,
    };
    let (backend, out) = (CpuBackend::default(), dir.path().join("alone"));
    let summary = quantize(&backend, &source, &out, &tokens, &options, &mut |_| ()).unwrap();
    let rounded: Vec<&str> = summary
        .linears
        .iter()
        .filter(|linear| linear.fallback.as_deref() == Some("no token reached it"))
        .map(|linear| linear.prefix.as_str())
        .collect();
    let prefix = "model.layers.0.mlp.experts.1";
    assert_eq!(
        rounded,
        ["gate_proj", "up_proj", "down_proj"].map(|p| format!("{prefix}.{p}"))
    );
}

#[test]
fn a_run_is_a_function_of_its_input() {
    let dir = tempdir().unwrap();
    let shape = Shape::small();
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let tokens = shape.tokens(9, 32);
    for export in [Export::CompressedTensors, Export::FpQuant] {
        let [one, three] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let out = dir.path().join(format!("{export}-{threads}"));
            let options = GptqOptions {
                export,
                ..GptqOptions::new(Format::MxFp4)
            };
            let summary = pool.install(|| run(&source, &out, &tokens, options).unwrap());
            (summary, contents(&out))
        });
        assert!(one == three, "the number of threads changed the result");
    }
}

#[test]
fn a_survey_is_not_repeated() {
    let dir = tempdir().unwrap();
    let shape = Shape::small();
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let tokens = shape.tokens(4, 32);
    let options = Options::mr_gptq(GptqOptions::new(Format::MxFp4));
    let out = dir.path().join("out");
    let survey = |backend: &crate::support::stub::Stub| {
        let mut surveyed = 0;
        let result = quantize(backend, &source, &out, &tokens, &options, &mut |event| {
            surveyed += usize::from(matches!(event, Event::Surveyed { .. }));
        });
        (result.is_ok(), surveyed)
    };
    assert_eq!(
        survey(&crate::support::stub::Stub::failing_after(1)),
        (false, 2)
    );
    assert_eq!(survey(&crate::support::stub::Stub::default()), (true, 0));
}

#[test]
fn what_cannot_be_made_is_refused_before_work_begins() {
    let dir = tempdir().unwrap();
    let shape = Shape {
        intermediate: 96,
        ..Shape::small()
    };
    let source = shape.write(&dir.path().join("source"), |_, _| ());
    let tokens = shape.tokens(2, 32);
    let fixed = |block| RotationRule::Fixed(Rotation::Block(block));
    let int2 = Format::Int(IntBits::Two);
    let down = "model.layers.0.mlp.down_proj";
    let cases: &[(GptqOptions, &[&str])] = &[
        (
            GptqOptions::new(INT4),
            &["128", "96 inputs", down, "groups of 32 fit"],
        ),
        (
            GptqOptions {
                group: 7,
                ..GptqOptions::new(INT4)
            },
            &["groups of 7"],
        ),
        (
            GptqOptions {
                group: 0,
                ..GptqOptions::new(INT4)
            },
            &["groups of 0"],
        ),
        (
            GptqOptions {
                group: 32,
                ..GptqOptions::new(Format::NvFp4)
            },
            &["nvfp4 has groups of 16"],
        ),
        (
            GptqOptions {
                export: Export::CompressedTensors,
                ..GptqOptions::new(int2)
            },
            &["compressed-tensors files cannot hold int2: gptq can"],
        ),
        (GptqOptions::new(Format::Fp4), &["fp4"]),
        (
            GptqOptions {
                export: Export::FpQuant,
                rotation: fixed(64),
                ..GptqOptions::new(Format::NvFp4)
            },
            &["rotation of 64", "96 inputs", down],
        ),
        (
            GptqOptions {
                export: Export::FpQuant,
                rotation: fixed(16),
                ..GptqOptions::new(Format::MxFp4)
            },
            &["mxfp4", "16"],
        ),
    ];
    for (options, words) in cases {
        let out = dir.path().join("out");
        let message = run(&source, &out, &tokens, options.clone())
            .unwrap_err()
            .to_string();
        for word in *words {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
        assert!(!message.contains('\n'), "{message}");
        assert!(!out.exists());
    }
}
