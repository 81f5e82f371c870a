//! Every command on the repository's own model, one after the other as a newcomer would run them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use support::{fixture, text, treillage};
use tempfile::TempDir;

/// Quantizing is what takes time, so the commands that need a quantized model share one.
#[test]
fn from_a_checkpoint_to_a_conversation() {
    let dir = TempDir::new().unwrap();
    let quantized = dir.path().join("quantized");
    quantize(&quantized);
    inspect(&quantized);
    evaluate(&quantized);
    generate(&quantized);
    chat(&quantized);
    dequantize(&quantized, &dir.path().join("dense"));
}

fn quantize(out: &Path) {
    let summary = json(
        treillage([
            "quantize",
            "--bpw",
            "3",
            "--calib-rows",
            "16",
            "--calib-cols",
            "256",
        ])
        .arg(fixture("micro-qwen3_moe"))
        .arg("--out")
        .arg(out)
        .arg("--calib")
        .arg(fixture("text/calib.txt")),
    );
    let bits = summary["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 3.0 && bits > 2.9, "{bits}");
    assert_eq!(summary["rows"], 16);
    let linears = summary["linears"].as_array().unwrap();
    // Two layers of four attention projections and eight experts of three, and the head.
    assert_eq!(linears.len(), 2 * (4 + 8 * 3) + 1);
    for linear in linears {
        let error = linear["relative_error"].as_f64().unwrap();
        // Of one bit a quarter.
        assert!(error > 0.0 && error < 0.4, "{linear}");
    }
    assert!(summary["bytes"].as_u64().unwrap() < summary["source_bytes"].as_u64().unwrap() / 2);
    for name in ["config.json", "quantization_config.json", "tokenizer.json"] {
        assert!(out.join(name).is_file(), "{name}");
    }
}

fn inspect(quantized: &Path) {
    let original = json(treillage(["inspect"]).arg(fixture("micro-qwen3_moe")));
    assert_eq!(original["architecture"], "qwen3_moe");
    assert_eq!(original["parameters"], 1_117_056);
    assert_eq!(original["bits_per_weight"], 16.0);
    assert_eq!(original["quantization"], "none");

    let report = json(treillage(["inspect"]).arg(quantized));
    assert_eq!(report["parameters"], 1_117_056);
    let bits = report["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 3.0 && bits > 2.9, "{bits}");
    assert_eq!(report["head_bits"], 6);
    assert_eq!(report["quantization"], "exl3");
    let roles = report["linears"].as_array().unwrap();
    let role = |name| roles.iter().find(|role| role["role"] == name).unwrap();
    assert_eq!(role("mlp.experts.*.up_proj")["linears"], 16);
    let tuples = report["expert_bits"].as_array().unwrap();
    let experts = tuples
        .iter()
        .map(|tuple| tuple["experts"].as_u64().unwrap());
    assert_eq!(experts.sum::<u64>(), 16);
    assert!(tuples.len() > 1, "{tuples:?}");
    assert_eq!(role("lm_head")["bits"]["6"], 1);

    let table = stdout(treillage(["inspect"]).arg(quantized));
    for words in [
        "qwen3_moe",
        "1,117,056 parameters",
        "self_attn.q_proj",
        "trellis mul1",
        "experts by bits of gate/up/down",
    ] {
        assert!(table.contains(words), "no `{words}` in:\n{table}");
    }
}

fn evaluate(quantized: &Path) {
    let eval = |model: &Path| {
        let mut command = treillage(["eval", "--windows", "4", "--text"]);
        command.arg(fixture("text/eval.txt")).arg(model);
        command
    };
    let original = json(&mut eval(&fixture("micro-qwen3_moe")));
    let report = json(
        eval(quantized)
            .arg("--reference")
            .arg(fixture("micro-qwen3_moe")),
    );
    let number = |report: &Value, field: &str| report[field].as_f64().unwrap();
    assert_eq!(report["windows"], 4);
    assert_eq!(report["scored"], 4 * 511);
    let reference = number(&report, "reference_perplexity");
    assert!((reference / number(&original, "perplexity") - 1.0).abs() < 1e-9);
    assert!(number(&report, "perplexity") < 1.2 * number(&original, "perplexity"));
    let divergence = number(&report, "kl_divergence");
    assert!(divergence > 0.0 && divergence < 0.2, "{divergence}");
    let agreement = number(&report, "top1_agreement");
    assert!(agreement > 0.7 && agreement < 1.0, "{agreement}");
    let int8 = &report["int8"];
    let error = number(int8, "relative_rms");
    assert!(error > 0.0 && error < 0.05, "{int8}");
    assert!(original["int8"].is_null());

    let exact = json(eval(quantized).args(["--arithmetic", "exact"]));
    assert!(exact["int8"].is_null());

    let table = stdout(
        eval(quantized)
            .arg("--reference")
            .arg(fixture("micro-qwen3_moe")),
    );
    for words in ["perplexity", "KL divergence", "2,044 tokens scored"] {
        assert!(table.contains(words), "no `{words}` in:\n{table}");
    }
}

fn generate(quantized: &Path) {
    let command = || {
        let mut command = treillage(["generate", "--prompt", "The Rust programming language is"]);
        command.args(["--max-tokens", "16"]).arg(quantized);
        command
    };
    let report = json(command().args(["--temperature", "0"]));
    let ids = report["ids"].as_array().unwrap();
    assert!(!ids.is_empty() && ids.len() <= 16);
    let said = report["text"].as_str().unwrap();
    assert!(!said.is_empty());
    assert_eq!(report["prompt_tokens"], 20);
    assert!(report["prefill_tokens_per_second"].as_f64().unwrap() > 0.0);

    // The same words, streamed; speed is told beside them.
    let output = command().output().unwrap();
    assert_eq!(text(&output.stdout), format!("{said}\n"));
    assert!(text(&output.stderr).contains("tok/s"));

    let draw = |seed: &str| {
        let mut command = command();
        command.args([
            "--temperature",
            "1.5",
            "--top-k",
            "40",
            "--min-p",
            "0.01",
            "--seed",
            seed,
        ]);
        json(&mut command)["text"].clone()
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

fn chat(quantized: &Path) {
    let mut child = treillage([
        "chat",
        "--json",
        "--max-tokens",
        "8",
        "--system",
        "Be brief.",
    ])
    .arg(quantized)
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"What is ownership?\n\nAnd a borrow?\n/reset\nHello\n")
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 3);
    // The second turn is read on top of the first; the third knows neither.
    let number = |turn: usize, field: &str| answers[turn][field].as_u64().unwrap();
    assert!(number(1, "prompt_tokens") > number(0, "prompt_tokens"));
    assert!(number(1, "reused_tokens") >= number(0, "prompt_tokens") - 1);
    assert!(number(2, "prompt_tokens") < number(1, "prompt_tokens"));
}

fn dequantize(quantized: &Path, out: &Path) {
    let report = json(
        treillage(["dequantize", "--dtype", "f16", "--out"])
            .arg(out)
            .arg(quantized),
    );
    assert_eq!(report["linears"], 2 * (4 + 8 * 3) + 1);
    let inspected = json(treillage(["inspect"]).arg(out));
    assert_eq!(inspected["quantization"], "none");
    assert_eq!(inspected["bits_per_weight"], 16.0);
    assert_eq!(inspected["parameters"], 1_117_056);

    // It is the same model, but for the rounding of its weights to 16 bits, which may send one token of thousands to another
    // expert.
    let compared = json(
        treillage(["eval", "--windows", "8", "--arithmetic", "exact", "--text"])
            .arg(fixture("text/eval.txt"))
            .arg("--reference")
            .arg(quantized)
            .arg(out),
    );
    let divergence = compared["kl_divergence"].as_f64().unwrap();
    assert!(divergence.abs() < 1e-4, "{divergence}");
}

/// The same journey with codes that other engines load; what commands do alike for both is not looked at twice.
#[test]
fn group_quantized_models_travel_too() {
    let dir = TempDir::new().unwrap();
    for (arguments, quantization, format, bits) in [
        (
            ["--format", "int4", "--export", "gptq"],
            "gptq",
            "int4, groups of 128",
            4.125,
        ),
        (
            ["--format", "nvfp4", "--rotation", "32"],
            "compressed-tensors",
            "nvfp4",
            4.5,
        ),
    ] {
        let out = dir.path().join(quantization);
        let command = || {
            let mut command = treillage(["quantize", "--method", "mr-gptq"]);
            command.args(["--calib-rows", "8", "--calib-cols", "64", "--calib"]);
            command.arg(fixture("text/calib.txt")).args(arguments);
            command.arg(fixture("micro-qwen3_moe")).arg("--out");
            command
        };
        let summary = json(command().arg(&out));
        assert_eq!(summary["bits_per_weight"], bits);
        assert_eq!(summary["options"]["method"], "mr-gptq");
        assert_eq!(
            summary["linears"].as_array().unwrap().len(),
            2 * (4 + 8 * 3)
        );
        let table = stdout(command().arg(dir.path().join(format!("{quantization} again"))));
        for words in ["rotated by", "GPTQ in activation order", quantization] {
            assert!(table.contains(words), "no `{words}` in:\n{table}");
        }

        let report = json(treillage(["inspect"]).arg(&out));
        assert_eq!(report["quantization"], quantization);
        assert_eq!(report["linears"][0]["formats"][0], format);
        let found = report["bits_per_weight"].as_f64().unwrap();
        // NVFP4 has another f32 for each matrix.
        assert!((found - bits).abs() < 0.01, "{found}");
        assert_eq!(report["head_bits"], 16);

        let continued =
            json(treillage(["generate", "--max-tokens", "4", "--prompt", "The Rust"]).arg(&out));
        assert!(!continued["ids"].as_array().unwrap().is_empty());

        let dense = dir.path().join(format!("{quantization} dense"));
        let report = json(treillage(["dequantize", "--out"]).arg(&dense).arg(&out));
        assert_eq!(report["linears"], 2 * (4 + 8 * 3));
        let compared = json(
            treillage(["eval", "--windows", "2", "--arithmetic", "exact", "--text"])
                .arg(fixture("text/eval.txt"))
                .arg("--reference")
                .arg(&out)
                .arg(&dense),
        );
        let divergence = compared["kl_divergence"].as_f64().unwrap();
        assert!(divergence.abs() < 2e-3, "{divergence}");
        let rounded = json(
            treillage(["eval", "--windows", "2", "--text"])
                .arg(fixture("text/eval.txt"))
                .arg(&out),
        );
        assert!(rounded["int8"]["relative_rms"].as_f64().unwrap() > 0.0);
    }
}

/// The same journey with other architectures; what does not depend on them is not looked at twice.
#[test]
fn every_architecture_travels() {
    let dir = TempDir::new().unwrap();
    for (model, linears, mixers, state) in [
        // Three layers of five projections, one of them dense, two with six experts and a shared one; the head.
        (
            "micro-glm4_moe_lite",
            3 * 5 + 3 + 2 * 7 * 3 + 1,
            "3 × latent attention",
            0,
        ),
        // Two layers with a state, of two projections, and one of four; four experts and a shared one in each; the head.
        (
            "micro-qwen3_next",
            2 * 2 + 4 + 3 * 5 * 3 + 1,
            "2 × gated DeltaNet",
            2 * 4 * 64 * 64 * 4,
        ),
    ] {
        let out = dir.path().join(model);
        let summary = json(
            treillage([
                "quantize",
                "--bpw",
                "3",
                "--allocation",
                "uniform",
                "--calib",
            ])
            .arg(fixture("text/calib.txt"))
            .args(["--calib-rows", "8", "--calib-cols", "128", "--out"])
            .arg(&out)
            .arg(fixture(model)),
        );
        assert_eq!(summary["linears"].as_array().unwrap().len(), linears);

        let report = json(treillage(["inspect"]).arg(&out));
        let reference = std::fs::read(fixture(model).join("reference.json")).unwrap();
        let reference: Value = serde_json::from_slice(&reference).unwrap();
        // Corrections of scores are no parameters to transformers.
        let corrections = if model.contains("glm") { 2 * 6 } else { 0 };
        let parameters = reference["parameters"].as_u64().unwrap() + corrections;
        assert_eq!(report["parameters"], parameters);
        assert_eq!(report["bits_per_weight"], 3.0);
        assert_eq!(report["memory"]["recurrent_state"], state);
        let table = stdout(treillage(["inspect"]).arg(&out));
        assert!(table.contains(mixers), "no `{mixers}` in:\n{table}");

        let command = || {
            let mut command = treillage(["generate", "--prompt", "The Rust programming"]);
            command.args(["--max-tokens", "8", "--temperature", "0"]);
            command
        };
        let said = json(command().arg(&out))["text"].clone();
        assert!(!said.as_str().unwrap().is_empty());
        chat(&out);

        let dense = dir.path().join(format!("{model} dense"));
        let report = json(
            treillage(["dequantize", "--dtype", "f16", "--out"])
                .arg(&dense)
                .arg(&out),
        );
        assert_eq!(report["linears"], linears);
        let compare = |model: &Path, reference: &Path| {
            let report = json(
                treillage(["eval", "--windows", "2", "--arithmetic", "exact", "--text"])
                    .arg(fixture("text/eval.txt"))
                    .arg("--reference")
                    .arg(reference)
                    .arg(model),
            );
            report["kl_divergence"].as_f64().unwrap()
        };
        let rounding = compare(&dense, &out);
        assert!(rounding.abs() < 1e-4, "{model}: {rounding}");
        let divergence = compare(&out, &fixture(model));
        assert!(
            divergence > 0.0 && divergence < 0.1,
            "{model}: {divergence}"
        );
    }
}

/// A model that is calibrated on a GPU is as good as one that is on the CPU, and the same each time. Trellis codes take a software driver
/// too long: `treillage-quantize` makes some of a smaller model.
#[test]
fn models_are_quantized_on_every_device() {
    if treillage_gpu::Adapters::find().first().is_err() {
        assert!(std::env::var_os("TREILLAGE_REQUIRE_GPU").is_none());
        eprintln!("skipped: no adapter");
        return;
    }
    let dir = TempDir::new().unwrap();
    for (device, name) in [("cpu", "cpu"), ("gpu", "gpu"), ("gpu", "again")] {
        let mut command = treillage(["quantize", "--method", "mr-gptq", "--format", "int3"]);
        command
            .args(["--rotation", "none", "--device", device])
            .args(["--calib-rows", "4", "--calib-cols", "256", "--calib"])
            .arg(fixture("text/calib.txt"))
            .arg("--out")
            .arg(dir.path().join(name))
            .arg(fixture("micro-qwen3_moe"));
        for linear in json(&mut command)["linears"].as_array().unwrap() {
            assert!(linear["fallback"].is_null(), "{linear}");
        }
    }
    let divergence = |name: &str| {
        let report = json(
            treillage(["eval", "--windows", "4", "--arithmetic", "exact", "--text"])
                .arg(fixture("text/eval.txt"))
                .arg("--reference")
                .arg(fixture("micro-qwen3_moe"))
                .arg(dir.path().join(name)),
        );
        report["kl_divergence"].as_f64().unwrap()
    };
    let [cpu, gpu] = ["cpu", "gpu"].map(divergence);
    // Sums differ in their last bits, and of so few rows that turns codes; what comes of it has either sign, and was up to 5 % of a
    // divergence.
    let apart = (gpu / cpu - 1.0).abs();
    assert!(apart < 0.1, "KL {gpu}, of the CPU's {cpu}");
    let weights = |name: &str| std::fs::read(dir.path().join(name).join("model.safetensors"));
    assert_eq!(weights("gpu").unwrap(), weights("again").unwrap());
}

/// Experts of different rates compute the same on a CPU and on a GPU, where no work of theirs falls back.
#[test]
fn mixed_experts_run_on_every_device() {
    let dir = TempDir::new().unwrap();
    let quantized = |name: &str, arguments: &[&str]| {
        let out = dir.path().join(name);
        let mut command = treillage(["quantize", "--bpw", "2.5", "--calib-rows", "4"]);
        command.args(arguments).args(["--calib-cols", "128"]);
        command.arg("--calib").arg(fixture("text/calib.txt"));
        json(
            command
                .arg("--out")
                .arg(&out)
                .arg(fixture("micro-qwen3_moe")),
        );
        let tuples = json(treillage(["inspect"]).arg(&out))["expert_bits"].clone();
        (out, tuples.as_array().unwrap().len())
    };
    // Two layers have at most two tuples, unless each expert has its own.
    let (_, tuples) = quantized("uniform", &["--uniform-experts"]);
    assert!(tuples <= 2, "{tuples}");
    let (mixed, tuples) = quantized("mixed", &[]);
    assert!(tuples > 2, "{tuples}");

    let dense = dir.path().join("dense");
    json(
        treillage(["dequantize", "--dtype", "f16", "--out"])
            .arg(&dense)
            .arg(&mixed),
    );
    let eval = |device: &str| {
        let mut command = treillage(["eval", "--windows", "2", "--context", "64"]);
        command.arg("--text").arg(fixture("text/eval.txt"));
        command.args(["--device", device]);
        command.arg("--reference").arg(&dense).arg(&mixed);
        command.env("XDG_CACHE_HOME", dir.path());
        command
    };
    let divergence = |report: Value| report["kl_divergence"].as_f64().unwrap().abs();
    let cpu = divergence(json(eval("cpu").args(["--arithmetic", "exact"])));
    assert!(cpu < 1e-4, "{cpu}");

    let mut command = treillage(["generate", "--max-tokens", "4", "--stats", "--prompt", "fn"]);
    command.args(["--device", "gpu"]).arg(&mixed);
    let output = command.env("XDG_CACHE_HOME", dir.path()).output().unwrap();
    let told = text(&output.stderr);
    if !output.status.success() && std::env::var_os("TREILLAGE_REQUIRE_GPU").is_none() {
        assert!(told.contains("no GPU found"), "{told}");
        eprintln!("skipped: {told}");
        return;
    }
    for name in [
        "trellis_mixed_bpw_grouping.grouping_cpu_fallback_total",
        "trellis_moe_dispatch.cpu_router_fallback",
    ] {
        let line = told.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.ends_with(" 0"), "{line}");
    }
    let gpu = divergence(json(&mut eval("gpu")));
    assert!(gpu < 1e-3, "{gpu}");
}

#[test]
fn counters_are_told_and_no_work_falls_back() {
    let caches = TempDir::new().unwrap();
    let generate = |device: &str| {
        let mut command = treillage(["generate", "--max-tokens", "3", "--stats", "--prompt", "fn"]);
        command.args(["--device", device]);
        command.env("XDG_CACHE_HOME", caches.path());
        command.arg(fixture("micro-qwen3_moe")).output().unwrap()
    };
    let cpu = generate("cpu");
    let failures = "trellis_nan_guard.total_failures";
    let line = text(&cpu.stderr);
    let line = line.lines().find(|line| line.starts_with(failures));
    assert!(line.is_some_and(|line| line.ends_with(" 0")), "{line:?}");
    let gpu = generate("gpu");
    let told = text(&gpu.stderr);
    if !gpu.status.success() && std::env::var_os("TREILLAGE_REQUIRE_GPU").is_none() {
        assert!(told.contains("no GPU found"), "{told}");
        eprintln!("skipped: {told}");
        return;
    }
    let mut small = treillage(["generate", "--max-tokens", "3", "--cache-bits", "8"]);
    small.args(["--prompt", "fn", "--device", "gpu"]);
    small.env("XDG_CACHE_HOME", caches.path());
    assert!(!stdout(small.arg(fixture("micro-qwen3_moe"))).is_empty());
    let counter = |name: &str| {
        let line = told.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in:\n{told}"));
        line.rsplit(' ').next().unwrap().to_owned()
    };
    for zero in [
        "trellis_mixed_bpw_grouping.grouping_cpu_fallback_total",
        "trellis_moe_dispatch.cpu_router_fallback",
        "trellis_moe_metrics.fallback_used",
        "trellis_moe_metrics.nan_detected",
        "trellis_nan_guard.total_failures",
    ] {
        assert_eq!(counter(zero), "0", "{zero}");
    }
    let calls = counter("trellis_moe_dispatch.gpu_router_calls");
    assert_ne!(calls, "0");
    assert_eq!(counter("trellis_moe_dispatch.gpu_router_success"), calls);
    // Kernels are kept where the user's other caches are; of Vulkan's drivers, all of which anybody has can do that.
    if cfg!(target_os = "linux") {
        let kept = std::fs::read_dir(caches.path().join("treillage")).unwrap();
        assert_eq!(kept.count(), 1);
    }
}

#[test]
fn stages_are_timed_into_a_file() {
    let folder = TempDir::new().unwrap();
    let generate = |name: &str| {
        let mut command = treillage(["generate", "--max-tokens", "3", "--prompt", "fn"]);
        command.arg("--stats-file").arg(folder.path().join(name));
        command.arg(fixture("micro-qwen3_moe"));
        stdout(&mut command);
        std::fs::read_to_string(folder.path().join(name)).unwrap()
    };
    let exposition = generate("stats.prom");
    for stage in ["load", "prefill", "decode"] {
        let line = format!("treillage_stage_seconds_count{{stage=\"{stage}\"}} 1\n");
        assert!(exposition.contains(&line), "{line}{exposition}");
    }
    let json: serde_json::Value = serde_json::from_str(&generate("stats.json")).unwrap();
    assert_eq!(json["stages"][0]["stage"], "load");
    assert!(json["stages"][0]["total_seconds"].as_f64() > Some(0.0));
    let mut wrong = treillage(["generate", "--prompt", "fn", "--stats-file", "stats.csv"]);
    let wrong = wrong.arg(fixture("micro-qwen3_moe")).output().unwrap();
    assert!(!wrong.status.success());
    assert!(text(&wrong.stderr).contains(".prom"));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child = treillage(["generate", "--prompt", "fn main() {", "--max-tokens", "400"])
        .arg(fixture("micro-qwen3_moe"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut error = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn help_names_every_command() {
    let help = stdout(&mut treillage(["--help"]));
    for command in [
        "demo",
        "quantize",
        "eval",
        "generate",
        "chat",
        "inspect",
        "dequantize",
    ] {
        assert!(help.contains(command), "no {command} in:\n{help}");
        assert!(stdout(&mut treillage([command, "--help"])).contains("--json"));
    }
}

/// What the program wrote to its standard output; it must have succeeded.
fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// What the program wrote with `--json`; it must be JSON, and nothing else must have been said.
fn json(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
    assert_eq!(text(&output.stderr), "", "{command:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
