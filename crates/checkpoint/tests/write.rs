//! What is written: read back, laid out and described as loaders expect, refused where they would refuse it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;
#[path = "common/job.rs"]
mod job;

use std::{fs, path::Path};

use common::{Tensors, config, fixture, folder, message, ramp, trellis};
use half::{bf16, f16};
use job::{bits, packed, quantized, settings, write_group};
use serde_json::{Value, json};
use treillage_checkpoint::{
    Checkpoint, DenseSettings, DenseTensor, DenseWriter, Dtype, Exl3Settings, Exl3Writer,
    HalfDtype, Module, Quantization, Safetensors,
};
use treillage_trellis::Codebook;

fn source() -> Checkpoint {
    Checkpoint::open(fixture()).unwrap()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Names in a folder, sorted.
fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_quantized_checkpoint_reads_back_as_written() {
    let (source, out) = (source(), tempfile::tempdir().unwrap());
    job::run(out.path(), settings(), &source).unwrap();
    assert_eq!(
        files(out.path()),
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "quantization_config.json",
            "quantize_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    );
    for name in [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        let [ours, theirs] =
            [out.path(), source.dir()].map(|dir| fs::read(dir.join(name)).unwrap());
        assert_eq!(ours, theirs, "{name}");
    }

    let written = Checkpoint::open(out.path()).unwrap();
    assert_eq!(written.config(), source.config());
    assert_eq!(written.quantization(), Some(&Quantization::Exl3));
    for view in source.tensors() {
        let Some(prefix) = quantized(view.name()) else {
            let stored = written.tensor(view.name()).unwrap();
            assert_eq!(stored.shape(), view.shape());
            if view.name().ends_with("mlp.gate.weight") {
                assert_eq!(stored.dtype(), Dtype::F16);
                let [ours, theirs] = [&written, &source].map(|c| c.dense(view.name()).unwrap());
                let theirs = theirs
                    .to_f32()
                    .into_iter()
                    .map(|v| f16::from_f32(v).to_f32());
                assert_eq!(ours.to_f32(), theirs.collect::<Vec<_>>());
            } else {
                assert_eq!(stored.dtype(), Dtype::Bf16);
                assert_eq!(stored.bytes(), view.bytes());
            }
            continue;
        };
        assert!(!written.contains(view.name()), "no weight beside a trellis");
        let shape = [view.shape()[1], view.shape()[0]];
        let ours = trellis(&written, prefix, shape);
        let theirs = packed(shape, bits(prefix), Codebook::Mul1, prefix.len());
        assert_eq!(ours.words(), theirs.words());
        assert_eq!((ours.suh(), ours.svh()), (theirs.suh(), theirs.svh()));
        assert_eq!(ours.codebook(), Codebook::Mul1);
        let flag = written.tensor(&format!("{prefix}.mul1")).unwrap();
        assert_eq!((flag.dtype(), flag.shape()), (Dtype::I32, &[][..]));
        assert_eq!(flag.bytes(), 0x83DC_D12D_u32.to_le_bytes());
    }
}

#[test]
fn the_configuration_says_how_it_was_made() {
    let (source, out) = (source(), tempfile::tempdir().unwrap());
    job::run(out.path(), settings(), &source).unwrap();
    // Weights: 2 blocks of 4 × 32,768 (q, o: 128×256; k, v: 128×128) at 4 bits and 24 × 16,384 at 3.
    let attention = 2 * (2 * 32768 + 2 * 16384);
    let experts = 2 * 24 * 16384;
    let average = (4 * attention + 3 * experts) as f64 / (attention + experts) as f64;
    let summary = json!({
        "quant_method": "exl3",
        "producer": "treillage",
        "version": env!("CARGO_PKG_VERSION"),
        "bits": (average * 100.0).round() / 100.0,
        "head_bits": 6,
        "calibration": {"rows": 4, "cols": 128},
        "out_scales": "always",
        "codebook": "mul1",
    });
    let mut config = json_of(&out.path().join("config.json"));
    let found = config
        .as_object_mut()
        .unwrap()
        .shift_remove("quantization_config");
    assert_eq!(found.unwrap(), summary);
    assert_eq!(&config, source.raw_config());

    let mut description = json_of(&out.path().join("quantization_config.json"));
    let storage = description
        .as_object_mut()
        .unwrap()
        .shift_remove("tensor_storage")
        .unwrap();
    assert_eq!(description, summary);
    let written = Checkpoint::open(out.path()).unwrap();
    let described = storage.as_object().unwrap().values();
    let described: usize = described
        .map(|m| m["stored_tensors"].as_object().unwrap().len())
        .sum();
    assert_eq!(described, written.names().len());
    let entry = |shape: &[usize], n_bytes: usize, dtype: &str| json!({"shape": shape, "n_bytes": n_bytes, "dtype": format!("torch.{dtype}"), "torch_dtype": dtype});
    let q = "model.layers.0.self_attn.q_proj";
    assert_eq!(
        storage[q],
        json!({
            "stored_tensors": {
                (format!("{q}.mul1")): entry(&[], 4, "int32"),
                (format!("{q}.suh")): entry(&[128], 256, "float16"),
                (format!("{q}.svh")): entry(&[256], 512, "float16"),
                (format!("{q}.trellis")): entry(&[8, 16, 64], 16384, "int16"),
            },
            "quant_format": "exl3",
            "bits_per_weight": 4,
            "mul1_multiplier": 2_212_286_765_u32,
        })
    );
    assert_eq!(
        storage["model.embed_tokens"],
        json!({"stored_tensors": {"model.embed_tokens.weight": entry(&[512, 128], 131_072, "bfloat16")}})
    );

    let gptq_model = json_of(&out.path().join("quantize_config.json"));
    for key in ["method", "quant_method", "format", "checkpoint_format"] {
        assert_eq!(gptq_model[key], "exl3", "{key}");
    }
    assert_eq!(gptq_model["head_bits"], 6);
    assert_eq!(gptq_model["tensor_storage"][q], storage[q]);
    assert_eq!(
        gptq_model["tensor_storage"]["model.embed_tokens"],
        Value::Null
    );
}

#[test]
fn shards_hold_whole_modules_and_an_index_finds_them() {
    let (source, out) = (source(), tempfile::tempdir().unwrap());
    let limit = 100_000;
    let small = Exl3Settings {
        max_shard_bytes: limit,
        ..settings()
    };
    job::run(out.path(), small, &source).unwrap();
    let shards: Vec<_> = files(out.path())
        .into_iter()
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    assert!(shards.len() > 4, "{shards:?}");
    let count = shards.len();
    let mut total = 0;
    let mut modules = std::collections::HashMap::new();
    for (number, name) in shards.iter().enumerate() {
        assert_eq!(
            *name,
            format!("model-{:05}-of-{count:05}.safetensors", number + 1)
        );
        let shard = Safetensors::open(out.path().join(name)).unwrap();
        let mut bytes = 0;
        for tensor in shard.header().names() {
            let view = shard.tensor(tensor).unwrap();
            bytes += view.bytes().len() as u64;
            let address = view.bytes().as_ptr() as usize;
            assert_eq!(
                address % (view.dtype().bits() / 8),
                0,
                "{tensor} is aligned"
            );
            let module = tensor.rsplit_once('.').unwrap().0.to_owned();
            assert_eq!(modules.entry(module).or_insert(number), &number, "{tensor}");
        }
        // The embedding alone is larger.
        assert!(bytes <= limit || shard.header().names().len() == 1);
        total += bytes;
    }
    let index = json_of(&out.path().join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], total);
    let [whole, sharded] = [
        settings(),
        Exl3Settings {
            max_shard_bytes: limit,
            ..settings()
        },
    ]
    .map(|settings| {
        let out = tempfile::tempdir().unwrap();
        job::run(out.path(), settings, &source).unwrap();
        let checkpoint = Checkpoint::open(out.path()).unwrap();
        let tensors: Vec<_> = checkpoint
            .tensors()
            .map(|view| (view.name().to_owned(), view.bytes().to_vec()))
            .collect();
        tensors
    });
    assert!(whole == sharded, "the same tensors however they are cut");
}

#[test]
fn written_groups_stay_and_can_be_read() {
    let (source, out) = (source(), tempfile::tempdir().unwrap());
    let writer = job::open(out.path(), settings()).unwrap();
    assert_eq!(writer.pending().collect::<Vec<_>>(), job::GROUPS);
    write_group(&writer, &source, "model.layers.1").unwrap();
    fs::write(writer.state_dir().join("activations"), [1, 2, 3]).unwrap();
    drop(writer);

    let writer = job::open(out.path(), settings()).unwrap();
    assert_eq!(
        writer.pending().collect::<Vec<_>>(),
        ["embedding", "model.layers.0", "head"]
    );
    assert_eq!(
        fs::read(writer.state_dir().join("activations")).unwrap(),
        [1, 2, 3]
    );
    let block = writer.written("model.layers.1", &source).unwrap();
    let linear = trellis(&block, "model.layers.1.self_attn.q_proj", [128, 256]);
    assert_eq!(linear.bits().get(), 4);
    assert!(!block.contains("model.embed_tokens.weight"));
    assert!(message(writer.written("head", &source), out.path()).starts_with("cannot read "));
}

#[test]
fn an_unfinished_or_foreign_folder_is_not_touched() {
    let (source, out) = (source(), tempfile::tempdir().unwrap());
    let writer = job::open(out.path(), settings()).unwrap();
    let busy = job::open(out.path(), settings()).map(|_| ());
    assert_eq!(
        message(busy, out.path()),
        "DIR: another process is writing here"
    );
    let early = message(writer.finish(&source), out.path());
    assert_eq!(early, "DIR: group `embedding` is not written yet");

    for (other, what) in [
        (
            Exl3Settings {
                codebook: Codebook::Mcg,
                ..settings()
            },
            "settings.codebook",
        ),
        (
            Exl3Settings {
                fingerprint: json!({"seed": 2}),
                ..settings()
            },
            "settings.fingerprint",
        ),
    ] {
        let result = job::open(out.path(), other).map(|_| ());
        assert_eq!(
            message(result, out.path()),
            format!(
                "DIR: holds an unfinished job with another {what}: finish it with its own settings, \
                 or choose another directory"
            )
        );
    }

    job::run(out.path(), settings(), &source).unwrap();
    let before = files(out.path());
    let again = job::open(out.path(), settings()).map(|_| ());
    assert_eq!(
        message(again, out.path()),
        "DIR: the output directory is not empty"
    );
    assert_eq!(files(out.path()), before);
    let onto_source = job::open(source.dir(), settings()).map(|_| ());
    assert_eq!(
        message(onto_source, source.dir()),
        "DIR: the output directory is not empty"
    );
    let file = out.path().join("config.json");
    let onto_file = job::open(&file, settings()).map(|_| ());
    assert!(message(onto_file, &file).starts_with("cannot write DIR: "));
}

#[test]
fn what_loaders_would_refuse_is_not_written() {
    let out = tempfile::tempdir().unwrap();
    let writer = job::open(out.path(), settings()).unwrap();
    let write = |modules: &[Module<'_>]| message(writer.write_group("head", modules), out.path());

    let mcg = packed([128, 128], 2, Codebook::Mcg, 0);
    assert_eq!(
        write(&[Module::Trellis {
            name: "lm_head",
            linear: &mcg
        }]),
        "DIR: linear `lm_head` has codebook mcg, the model mul1: one model has one codebook"
    );
    let [two, three] = [2, 3].map(|bits| packed([128, 128], bits, Codebook::Mul1, 0));
    let expert = |name, linear| Module::Trellis { name, linear };
    assert_eq!(
        write(&[
            expert("m.experts.0.up_proj", &two),
            expert("m.experts.0.gate_proj", &three),
            expert("n.experts.0.up_proj", &three),
            expert("m.experts.1.up_proj", &three),
        ]),
        "DIR: linear `m.experts.1.up_proj` has 3 bits, the same projection of other experts 2: they must agree"
    );
    let elsewhere = tempfile::tempdir().unwrap();
    let mixed = Exl3Settings {
        uniform_experts: false,
        ..settings()
    };
    let mixed = job::open(elsewhere.path(), mixed).unwrap();
    let experts = [
        expert("m.experts.0.up_proj", &two),
        expert("m.experts.1.up_proj", &three),
    ];
    mixed.write_group("head", &experts).unwrap();
    let large = DenseTensor::new("x.weight", [1, 2], vec![1.0, 7e4]).unwrap();
    assert_eq!(
        write(&[Module::Linear {
            name: "x",
            weight: &large,
            bias: None
        }]),
        "DIR: tensor `x.weight`: element 1 is 70000, too large for F16"
    );
    let nan = DenseTensor::new("norm.weight", [2], vec![f16::ONE, f16::NAN]).unwrap();
    let result = writer.write_group("head", &[Module::Tensor(&nan)]);
    assert_eq!(
        result.unwrap_err().to_string(),
        "in memory: tensor `norm.weight`: element 1 is NaN"
    );
    let unknown = writer.write_group("tail", &[]);
    assert_eq!(
        message(unknown, out.path()),
        "DIR: the job has no group `tail`"
    );
    assert_eq!(writer.pending().count(), 4, "nothing was written");

    let norm = DenseTensor::new("norm.weight", [2], ramp(2)).unwrap();
    for group in job::GROUPS {
        writer.write_group(group, &[Module::Tensor(&norm)]).unwrap();
    }
    assert_eq!(
        message(writer.finish(&source()), out.path()),
        "DIR: tensor `norm.weight` would be written twice"
    );
}

/// `/dev/full` in the place of the unfinished file is a disk with no room.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let (source, out) = (source(), tempfile::tempdir().unwrap());
    let writer = job::open(out.path(), settings()).unwrap();
    let beside = out.path().join(".treillage/part.tmp");
    std::os::unix::fs::symlink("/dev/full", &beside).unwrap();
    assert_eq!(
        message(write_group(&writer, &source, "head"), out.path()),
        "cannot write .treillage/part-00003.safetensors: No space left on device (os error 28)"
    );
    assert_eq!(writer.pending().count(), 4);
    // With room again, the same job goes on.
    for group in job::GROUPS {
        write_group(&writer, &source, group).unwrap();
    }
    std::os::unix::fs::symlink("/dev/full", out.path().join(".treillage/file.tmp")).unwrap();
    assert_eq!(
        message(writer.finish(&source), out.path()),
        "cannot write model.safetensors: No space left on device (os error 28)"
    );
    assert_eq!(files(out.path()), [".treillage"]);
    job::run(out.path(), settings(), &source).unwrap();
    Checkpoint::open(out.path()).unwrap();
}

#[test]
fn the_quantization_of_the_source_is_remembered() {
    let mut config = config();
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    config["quantization_config"] = fp8.clone();
    let weights = Tensors::new().f32("norm.weight", &[2], &[1.0, 2.0]);
    let dir = folder(&[
        ("model.safetensors", &weights.bytes()),
        ("config.json", config.to_string().as_bytes()),
    ]);
    let (source, out) = (
        Checkpoint::open(dir.path()).unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let writer = Exl3Writer::create_or_resume(out.path(), settings(), vec!["all".into()]).unwrap();
    let norm = source.dense("norm.weight").unwrap();
    writer.write_group("all", &[Module::Tensor(&norm)]).unwrap();
    writer.finish(&source).unwrap();
    let config = json_of(&out.path().join("config.json"));
    let found = &config["quantization_config"];
    assert_eq!(found["original_quantization_config"], fp8);
    assert_eq!(found["head_bits"], 16);
    assert_eq!(
        json_of(&out.path().join("quantize_config.json"))["head_bits"],
        Value::Null
    );
}

#[test]
fn an_unquantized_checkpoint_has_no_trace_of_quantization() {
    let mut config = config();
    config["quantization_config"] = json!({"quant_method": "exl3", "bits": 3.0});
    config["tie_word_embeddings"] = json!(true);
    let weights = Tensors::new().f32("model.norm.weight", &[3], &[1.0, -0.3, 1e-3]);
    let dir = folder(&[
        ("model.safetensors", &weights.bytes()),
        ("config.json", config.to_string().as_bytes()),
    ]);
    let source = Checkpoint::open(dir.path()).unwrap();
    for (dtype, name, stored) in [
        (HalfDtype::Bf16, "bfloat16", bf16::from_f32(-0.3).to_f32()),
        (HalfDtype::F16, "float16", f16::from_f32(-0.3).to_f32()),
    ] {
        let out = tempfile::tempdir().unwrap();
        let settings = DenseSettings {
            dtype,
            ..DenseSettings::default()
        };
        let writer =
            DenseWriter::create_or_resume(out.path(), settings, vec!["all".into()]).unwrap();
        assert_eq!(writer.pending().collect::<Vec<_>>(), ["all"]);
        let head = DenseTensor::new("lm_head.weight", [1, 2], vec![0.5, 0.25]).unwrap();
        let norm = source.dense("model.norm.weight").unwrap();
        writer.write_group("all", &[norm, head]).unwrap();
        writer.finish(&source).unwrap();

        assert_eq!(files(out.path()), ["config.json", "model.safetensors"]);
        let written = Checkpoint::open(out.path()).unwrap();
        assert_eq!(written.vector("model.norm.weight", 3).unwrap()[1], stored);
        assert_eq!(
            written.dense("lm_head.weight").unwrap().to_f32(),
            [0.5, 0.25]
        );
        assert_eq!(written.quantization(), None);
        let mut expected = config.clone();
        expected
            .as_object_mut()
            .unwrap()
            .shift_remove("quantization_config");
        expected["torch_dtype"] = json!(name);
        expected["tie_word_embeddings"] = json!(false);
        assert_eq!(written.raw_config(), &expected);
    }
}
