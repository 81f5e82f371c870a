//! Whatever is wrong with what the program is given, it says so in one line that names the culprit, exits with a
//! status other than zero, and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/damage.rs"]
mod damage;
mod support;

use std::{fs, path::Path, process::Output};

use damage::Model;
use serde_json::{Value, json};
use support::{fixture, text, treillage};
use tempfile::TempDir;

/// A weight that every command needs.
const WEIGHT: &str = "model.layers.1.mlp.experts.5.down_proj.weight";

/// One way to damage a checkpoint, and words that the message must contain.
struct Case {
    name: &'static str,
    damage: fn(&Model),
    words: &'static [&'static str],
}

const DAMAGED_CHECKPOINTS: &[Case] = &[
    Case {
        name: "no config",
        damage: |model| model.remove("config.json"),
        words: &["config.json"],
    },
    Case {
        name: "config is not JSON",
        damage: |model| fs::write(model.file("config.json"), "{\"hidden_size\": 1").unwrap(),
        words: &["config.json"],
    },
    Case {
        name: "config without a needed field",
        damage: |model| {
            model.configure(|config| _ = config.remove("hidden_size"));
        },
        words: &["config.json", "hidden_size"],
    },
    Case {
        name: "config field of another type",
        damage: |model| {
            model.configure(|config| _ = config.insert("num_experts".into(), json!("many")));
        },
        words: &["config.json", "num_experts"],
    },
    Case {
        name: "absurd size in the config",
        damage: |model| {
            model.configure(|config| _ = config.insert("vocab_size".into(), json!(1_u64 << 60)));
        },
        words: &["config.json", "vocab_size"],
    },
    Case {
        name: "unknown architecture",
        damage: |model| {
            model.configure(|config| {
                config.insert("model_type".into(), json!("mamba9"));
                config.insert("architectures".into(), json!(["Mamba9ForCausalLM"]));
            });
        },
        words: &["config.json", "amba9", "qwen3_moe"],
    },
    Case {
        name: "no weights",
        damage: |model| model.remove("model.safetensors"),
        words: &["safetensors"],
    },
    Case {
        name: "weights are a folder",
        damage: |model| {
            model.remove("model.safetensors");
            fs::create_dir(model.file("model.safetensors")).unwrap();
        },
        words: &["model.safetensors"],
    },
    Case {
        name: "empty weights",
        damage: |model| model.damage(Vec::clear),
        words: &["model.safetensors"],
    },
    Case {
        name: "truncated data",
        damage: |model| model.damage(|bytes| bytes.truncate(bytes.len() - 1000)),
        words: &["model.safetensors"],
    },
    Case {
        name: "truncated header",
        damage: |model| model.damage(|bytes| bytes.truncate(500)),
        words: &["model.safetensors"],
    },
    Case {
        name: "header longer than the file",
        damage: |model| {
            model.damage(|bytes| bytes[..8].copy_from_slice(&(1_u64 << 40).to_le_bytes()));
        },
        words: &["model.safetensors"],
    },
    Case {
        name: "header longer than anything",
        damage: |model| {
            model.damage(|bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
        },
        words: &["model.safetensors"],
    },
    Case {
        name: "overlapping tensors",
        damage: |model| {
            model.relabel(|header| {
                let elsewhere = "model.layers.0.mlp.experts.0.down_proj.weight";
                header[WEIGHT]["data_offsets"] = header[elsewhere]["data_offsets"].clone();
            });
        },
        words: &["model.safetensors"],
    },
    Case {
        name: "shape that lies about the size",
        damage: |model| model.relabel(|header| header[WEIGHT]["shape"] = json!([128, 129])),
        words: &["model.safetensors", WEIGHT],
    },
    Case {
        name: "another shape of the same size",
        damage: |model| model.relabel(|header| header[WEIGHT]["shape"] = json!([64, 256])),
        words: &["model.safetensors", WEIGHT, "[64, 256]"],
    },
    Case {
        name: "another type of the same size",
        damage: |model| model.relabel(|header| header[WEIGHT]["dtype"] = json!("I16")),
        words: &["model.safetensors", WEIGHT, "I16"],
    },
    Case {
        name: "a tensor is missing",
        damage: |model| {
            model.relabel(|header| {
                let tensor = header.remove(WEIGHT).unwrap();
                header.insert("unrelated".into(), tensor);
            });
        },
        words: &[WEIGHT],
    },
    Case {
        name: "a weight is NaN",
        damage: |model| model.poison(WEIGHT, [0xc0, 0x7f]),
        words: &[WEIGHT, "NaN"],
    },
    Case {
        name: "a weight is infinite",
        damage: |model| model.poison(WEIGHT, [0x80, 0x7f]),
        words: &[WEIGHT, "inf"],
    },
    Case {
        name: "a norm is NaN",
        damage: |model| model.poison("model.norm.weight", [0xc0, 0x7f]),
        words: &["model.norm.weight", "NaN"],
    },
    Case {
        name: "no tokenizer",
        damage: |model| model.remove("tokenizer.json"),
        words: &["tokenizer.json"],
    },
    Case {
        name: "tokenizer is not one",
        damage: |model| fs::write(model.file("tokenizer.json"), "[]").unwrap(),
        words: &["tokenizer.json"],
    },
];

#[test]
fn damaged_checkpoints_are_refused_by_quantize() {
    let dir = TempDir::new().unwrap();
    for (index, case) in DAMAGED_CHECKPOINTS.iter().enumerate() {
        let source = dir.path().join(format!("source-{index}"));
        let out = dir.path().join(format!("out-{index}"));
        (case.damage)(&Model::copy_to(source.clone()));
        let output = quantize(&source, &out, &[]);
        check(case.name, &output, case.words);
        assert!(!out.exists(), "{}: {} is left", case.name, out.display());
    }
}

/// The same damage, met by the commands that load a model to run it.
#[test]
fn damaged_checkpoints_are_refused_by_eval_and_generate() {
    let dir = TempDir::new().unwrap();
    // Running a model does not look at every weight before it starts: it says which output is not finite.
    let other_words = |case: &Case| case.name.starts_with("a weight is");
    for (index, case) in DAMAGED_CHECKPOINTS.iter().enumerate() {
        let source = dir.path().join(format!("source-{index}"));
        (case.damage)(&Model::copy_to(source.clone()));
        let words: &[&str] = if other_words(case) {
            &["finite"]
        } else {
            case.words
        };
        let eval = treillage(["eval", "--windows", "1", "--text"])
            .arg(fixture("text/eval.txt"))
            .arg(&source)
            .output()
            .unwrap();
        check(case.name, &eval, words);
        if !other_words(case) {
            let generate = treillage(["generate", "--max-tokens", "1", "--prompt", "fn"])
                .arg(&source)
                .output()
                .unwrap();
            check(case.name, &generate, words);
        }
    }
}

#[test]
fn values_that_are_not_finite_are_told_by_layer_on_every_device() {
    let dir = TempDir::new().unwrap();
    let model = Model::copy_to(dir.path().join("model"));
    model.poison("model.layers.1.self_attn.o_proj.weight", [0xc0, 0x7f]);
    for device in ["cpu", "gpu"] {
        let mut command = treillage(["generate", "--prompt", "fn", "--stats", "--device", device]);
        let output = command.arg(dir.path().join("model")).output().unwrap();
        let told = text(&output.stderr);
        if told.contains("no GPU found") && std::env::var_os("TREILLAGE_REQUIRE_GPU").is_none() {
            eprintln!("skipped: {told}");
            continue;
        }
        assert!(!output.status.success() && output.stdout.is_empty());
        let counted = |name: &str, value: &str| {
            let line = told.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in:\n{told}"));
            assert!(line.ends_with(value), "{line}");
        };
        counted("trellis_nan_guard.total_failures", " 1");
        counted("trellis_nan_guard.total_recoveries", " 0");
        counted("trellis_nan_guard.most_affected_layer", " 1");
        counted(
            "error: a value in layer 1 (row 0: 1 values",
            " is not finite",
        );
    }
}

#[test]
fn impossible_requests_are_refused_by_quantize() {
    let dir = TempDir::new().unwrap();
    let short = dir.path().join("short.txt");
    fs::write(&short, "Too short.").unwrap();
    let binary = dir.path().join("binary.txt");
    fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let absent = dir.path().join("absent.txt");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let [short, binary, absent] = [&short, &binary, &absent].map(|p| path(p));
    let cases: &[(&[&str], &[&str])] = &[
        (&["--bpw", "0.5"], &["0.5"]),
        (&["--bpw", "8.01"], &["8.01"]),
        (&["--bpw", "-3"], &["-3"]),
        (&["--bpw", "NaN"], &["NaN"]),
        (&["--bpw", "three"], &["--bpw", "three"]),
        (&["--memory", "0"], &["--memory", "GiB"]),
        (&["--memory", "0.001"], &["at least", "GiB"]),
        (&["--head-bits", "9"], &["9"]),
        (&["--head-bits", "0"], &["0"]),
        (&["--codebook", "mul2"], &["mul2", "mul1"]),
        (&["--method", "magic"], &["--method", "magic"]),
        (&["--format", "int4"], &["--format", "--method mr-gptq"]),
        (
            &["--method", "mr-gptq", "--bpw", "3"],
            &["--bpw", "--method trellis"],
        ),
        (
            &["--method", "mr-gptq", "--format", "int5"],
            &["int5", "nvfp4"],
        ),
        (&["--method", "mr-gptq", "--rotation", "7"], &["7", "128"]),
        (
            &["--method", "mr-gptq", "--solver", "magic"],
            &["--solver", "magic"],
        ),
        (
            &["--method", "mr-gptq", "--group", "256"],
            &["groups of 256", "model.layers.0.self_attn.q_proj", "128"],
        ),
        (&["--method", "mr-gptq", "--group", "0"], &["groups of 0"]),
        (
            &["--method", "mr-gptq", "--format", "mxfp4", "--group", "16"],
            &["mxfp4 has groups of 32"],
        ),
        (
            &[
                "--method",
                "mr-gptq",
                "--format",
                "int3",
                "--export",
                "compressed-tensors",
            ],
            &["compressed-tensors", "int3", "gptq"],
        ),
        (
            &[
                "--method", "mr-gptq", "--format", "nvfp4", "--export", "gptq",
            ],
            &["nvfp4", "compressed-tensors and fp_quant"],
        ),
        (
            &["--method", "mr-gptq", "--export", "gguf"],
            &["gguf", "fp_quant"],
        ),
        (
            &[
                "--method",
                "mr-gptq",
                "--format",
                "mxfp4",
                "--export",
                "fp_quant",
                "--rotation",
                "16",
            ],
            &["mxfp4", "16"],
        ),
        (&["--device", "abacus"], &["--device", "abacus"]),
        (&["--threads", "0"], &["--threads"]),
        (&["--threads", "65000"], &["--threads", "1024"]),
        (&["--calib", &short], &["calibration", "512"]),
        (&["--calib", &binary], &["binary.txt"]),
        (&["--calib", &absent], &["absent.txt"]),
        (&["--calib-rows", "0"], &["0"]),
        (&["--calib-cols", "0"], &["0"]),
        (&["--calib-cols", "10000000"], &["10000000"]),
    ];
    for (index, (args, words)) in cases.iter().enumerate() {
        let out = dir.path().join(format!("out-{index}"));
        let output = quantize(&fixture("micro-qwen3_moe"), &out, args);
        check(&args.join(" "), &output, words);
        assert!(!out.exists(), "{args:?}: {} is left", out.display());
    }
}

#[test]
fn impossible_requests_are_refused_by_the_others() {
    let dir = TempDir::new().unwrap();
    let empty = dir.path().join("empty.txt");
    fs::write(&empty, "").unwrap();
    let model = fixture("micro-qwen3_moe").display().to_string();
    let eval_text = fixture("text/eval.txt").display().to_string();
    let empty = empty.display().to_string();
    let folder = dir.path().display().to_string();
    let cases: &[(&[&str], &[&str])] = &[
        (&["eval", "nowhere", "--text", &eval_text], &["nowhere"]),
        (&["eval", &model, "--text", "nothing.txt"], &["nothing.txt"]),
        (&["eval", &model, "--text", &folder], &[&folder]),
        (&["eval", &model, "--text", &empty], &["0 tokens"]),
        (&["eval", &model], &["--text"]),
        (
            &["eval", &model, "--text", &eval_text, "--context", "1"],
            &["1"],
        ),
        (
            &[
                "eval",
                &model,
                "--text",
                &eval_text,
                "--windows",
                "1",
                "--reference",
                "nowhere",
            ],
            &["nowhere"],
        ),
        (
            &["eval", &model, "--text", &eval_text, "--cache-bits", "8"],
            &["--cache-bits 8", "--device gpu"],
        ),
        (
            &["eval", &model, "--text", &eval_text, "--cache-bits", "4"],
            &["--cache-bits", "expected 8 or 16"],
        ),
        (
            &["eval", &model, "--text", &eval_text, "--windows", "0"],
            &["--windows"],
        ),
        (&["generate", &model, "--prompt", ""], &["prompt", "empty"]),
        (
            &[
                "generate",
                &model,
                "--prompt",
                "a b c d e",
                "--context",
                "2",
            ],
            &["--context"],
        ),
        (
            &["generate", &model, "--prompt", "fn", "--temperature", "-1"],
            &["temperature", "-1"],
        ),
        (
            &[
                "generate",
                &model,
                "--prompt",
                "fn",
                "--temperature",
                "1",
                "--top-p",
                "2",
            ],
            &["top-p", "2"],
        ),
        (&["inspect", "nowhere"], &["nowhere"]),
        (&["chat", "nowhere"], &["nowhere"]),
        (
            &["dequantize", "nowhere", "--out", "unwritten"],
            &["nowhere"],
        ),
        (&["dequantize", &model, "--out", &folder], &[&folder]),
        (&["bake", &model], &["bake"]),
        (&["inspect", &model, "--colour"], &["--colour"]),
    ];
    for (args, words) in cases {
        let output = treillage(*args).current_dir(dir.path()).output().unwrap();
        check(&args.join(" "), &output, words);
    }
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["empty.txt"]);
}

#[test]
fn a_quantized_source_is_refused() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    Model::copy_to(source.clone()).configure(|config| {
        let quantization = json!({ "quant_method": "exl3", "bits": 3.0 });
        config.insert("quantization_config".into(), quantization);
    });
    let out = dir.path().join("out");
    check(
        "quantized",
        &quantize(&source, &out, &[]),
        &["already quantized"],
    );
    assert!(!out.exists());
}

#[test]
fn an_output_directory_with_something_in_it_is_not_touched() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let output = quantize(&fixture("micro-qwen3_moe"), &out, &[]);
    check("not empty", &output, &[out.to_str().unwrap(), "empty"]);
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);

    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let output = quantize(&fixture("micro-qwen3_moe"), &file, &[]);
    check("a file", &output, &[file.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

/// A file size limit stands for a full disk: writing fails half-way either way.
#[cfg(unix)]
#[test]
fn a_full_disk_is_one_line_and_leaves_no_checkpoint() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    // Ignored, the signal becomes an error of the write, as on a full disk.
    let limited = "trap '' XFSZ; ulimit -f 40; exec \"$@\"";
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            limited,
            "sh",
            env!("CARGO_BIN_EXE_treillage"),
            "quantize",
        ])
        .arg(fixture("micro-qwen3_moe"))
        .arg("--out")
        .arg(&out)
        .args(["--bpw", "8", "--calib-rows", "1", "--calib-cols", "16"])
        .output()
        .unwrap();
    check("full disk", &output, &["out"]);
    // The finished parts stay for another attempt; nothing else does.
    let left: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, [".treillage"]);
}

fn quantize(source: &Path, out: &Path, args: &[&str]) -> Output {
    let mut command = treillage(["quantize"]);
    command.arg(source).arg("--out").arg(out);
    if !args.contains(&"--calib") {
        command.arg("--calib").arg(fixture("text/calib.txt"));
    }
    // Enough to reach every weight, if nothing stops it before.
    if !args
        .iter()
        .any(|arg| arg.starts_with("--calib-") || *arg == "--calib")
    {
        command.args(["--calib-rows", "1", "--calib-cols", "16"]);
    }
    command.args(args).output().unwrap()
}

fn check(case: &str, output: &Output, words: &[&str]) {
    assert_eq!(text(&output.stdout), "", "{case}");
    let line = refusal(output);
    for word in words {
        assert!(line.contains(word), "{case}: no `{word}` in: {line}");
    }
    println!("{case}: {line}");
}

/// Messages quote what files say; what files say must not break the line.
#[test]
fn foreign_text_stays_on_the_line() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("source");
    Model::copy_to(source.clone()).configure(|config| {
        config.insert("model_type".into(), Value::from("two\nlines\u{1b}[31m"));
    });
    let output = treillage(["inspect"]).arg(&source).output().unwrap();
    let line = refusal(&output);
    assert!(!line.contains('\u{1b}'), "{line:?}");
}

/// The one line that a refusal is; anything else fails the test.
fn refusal(output: &Output) -> String {
    let error = text(&output.stderr);
    assert!(
        !output.status.success(),
        "accepted; stdout: {}",
        text(&output.stdout)
    );
    assert!(
        output.status.code().is_some(),
        "killed by a signal: {error}"
    );
    assert_eq!(error.lines().count(), 1, "not one line: {error}");
    assert!(error.starts_with("error: "), "{error}");
    error.trim_end().to_owned()
}
