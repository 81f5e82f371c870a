//! A run that is killed at any moment and started again ends with the same bytes as one that was left alone.
//!
//! The test runs itself as a child process, which quantizes, kills it, and runs it again.
// Without the harness clippy does not know that this is a test.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod support;

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Shape, contents};
use treillage_checkpoint::Export;
use treillage_cpu::CpuBackend;
use treillage_gptq::Format;
use treillage_quantize::{GptqOptions, Options, TrellisOptions, quantize};

/// What is made, and how often that is killed.
const METHODS: [(&str, usize); 3] = [("trellis", 20), ("folded", 8), ("online", 8)];
/// Marks the child; the next argument is the folder with the source and the results.
const CHILD: &str = "--quantize-in";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == CHILD) {
        let [dir, out, method] = [&arguments[at + 1], &arguments[at + 2], &arguments[at + 3]];
        let options = options(method);
        run(
            &Path::new(dir).join("source"),
            &Path::new(dir).join(out),
            &options,
        );
        return ExitCode::SUCCESS;
    }
    for (method, kills) in METHODS {
        killed_runs_end_with_the_same_bytes(method, kills);
        println!("test killed_runs_end_with_the_same_bytes::{method} ... ok ({kills} kills)");
    }
    ExitCode::SUCCESS
}

fn options(method: &str) -> Options {
    match method {
        "trellis" => Options::trellis(TrellisOptions {
            bits_per_weight: 2.5,
            ..TrellisOptions::default()
        }),
        // Rotations are chosen, and folded into the model, or put into the files.
        "folded" => Options::mr_gptq(GptqOptions::new(Format::MxFp4)),
        _ => Options::mr_gptq(GptqOptions {
            export: Export::FpQuant,
            ..GptqOptions::new(Format::NvFp4)
        }),
    }
}

fn run(source: &Path, out: &Path, options: &Options) {
    let tokens = Shape::small().tokens(6, 32);
    quantize(
        &CpuBackend::default(),
        source,
        out,
        &tokens,
        options,
        &mut |_| (),
    )
    .unwrap();
}

fn start(dir: &Path, out: &str, method: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .arg(CHILD)
        .arg(dir)
        .arg(out)
        .arg(method)
        .spawn()
        .unwrap()
}

fn killed_runs_end_with_the_same_bytes(method: &str, wanted: usize) {
    let dir = tempfile::tempdir().unwrap();
    Shape::small().write(&dir.path().join("source"), |_, _| ());

    let started = Instant::now();
    assert!(start(dir.path(), "whole", method).wait().unwrap().success());
    let whole_run = started.elapsed();
    let expected = contents(&dir.path().join("whole"));
    assert!(expected.iter().any(|(name, _)| name == "config.json"));

    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let out = dir.path().join("killed");
    let mut kills = 0;
    while kills < wanted {
        let mut child = start(dir.path(), "killed", method);
        // Up to a third of a run: several kills hit one run, at its beginning, in its blocks and at its end.
        let patience = whole_run.mul_f64(rng.random_range(0.0..0.34));
        let started = Instant::now();
        let finished = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if started.elapsed() >= patience {
                break false;
            }
            thread::sleep(Duration::from_millis(1));
        };
        if !finished {
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        // A process may also be killed after its last file, before it ends.
        if finished || names_in(&out) == names_of(&expected) {
            assert_same(&contents(&out), &expected);
            fs::remove_dir_all(&out).unwrap();
        }
    }
    assert!(
        start(dir.path(), "killed", method)
            .wait()
            .unwrap()
            .success()
    );
    assert_same(&contents(&out), &expected);
}

/// What is in `dir`, folders too; nothing if it is not there.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn names_of(files: &[(String, Vec<u8>)]) -> Vec<String> {
    files.iter().map(|(name, _)| name.clone()).collect()
}

fn assert_same(found: &[(String, Vec<u8>)], expected: &[(String, Vec<u8>)]) {
    assert_eq!(names_of(found), names_of(expected));
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{name} differs after a kill");
    }
}
