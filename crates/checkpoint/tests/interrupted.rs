//! A job killed at random moments ends with the same bytes as one that was left alone.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that does not work"
)]

mod common;
#[path = "common/grouped.rs"]
mod grouped;
#[path = "common/job.rs"]
mod job;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::fixture;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use treillage_checkpoint::{Checkpoint, Exl3Settings};

/// Set in the process that does the job; names the output folder.
const OUT: &str = "TREILLAGE_TEST_OUT";

fn settings() -> Exl3Settings {
    // Several shards, so that there is more between the first and the last file.
    Exl3Settings {
        max_shard_bytes: 100_000,
        ..job::settings()
    }
}

/// The whole job, or what is left of it, in a process of its own: the test `name` again, with [`OUT`] set.
fn spawn(name: &str, out: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([name, "--exact"])
        .env(OUT, out)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn finished(out: &Path) -> bool {
    let hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
    let mut names = fs::read_dir(out).unwrap().map(|e| e.unwrap().file_name());
    out.join("config.json").exists() && !names.any(|name| hidden(&name))
}

/// Every file below `dir` with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

fn relative(files: BTreeMap<PathBuf, Vec<u8>>, dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let strip = |path: PathBuf| path.strip_prefix(dir).unwrap().to_owned();
    files
        .into_iter()
        .map(|(path, bytes)| (strip(path), bytes))
        .collect()
}

/// Kills the test `name`, which does `job`, at random moments, and compares what it ends with.
fn kill(name: &str, seed: u64, job: impl Fn(&Path, &Checkpoint)) {
    if let Some(out) = env::var_os(OUT) {
        return job(Path::new(&out), &Checkpoint::open(fixture()).unwrap());
    }
    let whole = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    assert!(spawn(name, whole.path()).wait().unwrap().success());
    let takes = begin.elapsed();
    let expected = relative(contents(whole.path()), whole.path());
    assert!(expected.len() > 8, "several shards and what is beside them");

    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut killed, mut half_way) = (0, 0);
    for _ in 0..20 {
        let out = tempfile::tempdir().unwrap();
        // Up to three deaths in one job; the kinder ones come late.
        for _ in 0..3 {
            let mut child = spawn(name, out.path());
            thread::sleep(rng.random_range(Duration::ZERO..takes));
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                break;
            }
            killed += 1;
            half_way += usize::from(out.path().join(".treillage/job.json").exists());
        }
        if !finished(out.path()) {
            assert!(spawn(name, out.path()).wait().unwrap().success());
        }
        let found = relative(contents(out.path()), out.path());
        assert!(found == expected, "{:?}", found.keys());
    }
    println!("{killed} kills, {half_way} of them in the middle of the job");
    assert!(half_way >= 5, "{half_way} of {killed}");
}

#[test]
fn killed_jobs_end_the_same() {
    kill("killed_jobs_end_the_same", 2, |out, source| {
        job::run(out, settings(), source).unwrap();
    });
}

#[test]
fn killed_jobs_of_groups_end_the_same() {
    let case = grouped::Case::named("gptq-int4-asymmetric");
    let mut settings = case.settings();
    settings.max_shard_bytes = 6000;
    kill("killed_jobs_of_groups_end_the_same", 3, |out, source| {
        case.write(out, settings.clone(), source).unwrap();
    });
}
