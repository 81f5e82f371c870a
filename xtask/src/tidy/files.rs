//! Rules on the text of the repository.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::command::{output, root};
use crate::metadata::{Metadata, Package};

/// A file longer than this has more than one reason to exist.
const MAX_LINES: usize = 700;

/// Crates that need `unsafe`: for SIMD intrinsics, for memory maps, for kernels without run-time checks. All others forbid it.
const UNSAFE_ALLOWED: &[&str] = &[
    "treillage-linalg",
    "treillage-trellis",
    "treillage-cpu",
    "treillage-checkpoint",
    "treillage-gpu",
];

/// What no tracked file says, and why. Split, so that this file does not say it either.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("/", "work/"), "a path of one machine"),
    (concat!("/", "root/"), "a path of one machine"),
    (concat!("/", "home/"), "a path of one machine"),
    (concat!("/", "tmp/"), "a path of one machine"),
    (
        concat!("target-", "cpu=native"),
        "SIMD is chosen at run time",
    ),
    (
        concat!("#[", "ignore"),
        "a test that does not run tests nothing",
    ),
    (concat!("should_", "panic"), "assert on the error instead"),
    (concat!("to", "do!("), "unfinished"),
    (concat!("unimple", "mented!("), "unfinished"),
    (concat!("FIX", "ME"), "unfinished"),
];

/// Calibration and evaluation texts.
const FIXTURE_TEXTS: &str = "fixtures/text/";

pub(crate) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in metadata.members() {
        check_crate(package, &mut problems);
    }
    let root = root();
    let listed = output(
        std::process::Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(&root),
    )?;
    for name in listed.split_terminator('\0') {
        let path = root.join(name);
        // Removed, but not yet committed; or prose about other programs, which may say anything.
        if !path.is_file() || name.starts_with(FIXTURE_TEXTS) {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        if let Ok(text) = std::str::from_utf8(&bytes) {
            check_text(name, text, &mut problems);
        }
    }
    Ok(problems)
}

fn check_crate(package: &Package, problems: &mut Vec<String>) {
    let name = &package.name;
    if name != "xtask" && !package.folder.join("README.md").is_file() {
        problems.push(format!("{name} has no README.md"));
    }
    let Ok(source) = fs::read_to_string(package.folder.join("src/lib.rs")) else {
        return;
    };
    if !source.starts_with("//!") {
        problems.push(format!(
            "{name}: lib.rs does not open with its documentation"
        ));
    }
    let forbids = source.contains("#![forbid(unsafe_code)]");
    if !forbids && !UNSAFE_ALLOWED.contains(&name.as_str()) {
        problems.push(format!("{name}: lib.rs does not forbid unsafe code"));
    }
}

fn check_text(name: &str, text: &str, problems: &mut Vec<String>) {
    let is_rust = Path::new(name).extension().is_some_and(|e| e == "rs");
    let lines = text.lines().count();
    if is_rust && lines > MAX_LINES {
        problems.push(format!("{name}: {lines} lines, more than {MAX_LINES}"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        for (words, reason) in FORBIDDEN {
            if line.contains(words) {
                problems.push(format!("{name}:{number}: `{words}`: {reason}"));
            }
        }
    }
    if is_rust && name.contains("/src/") && !name.ends_with("tests.rs") {
        check_panics(name, text, problems);
    }
}

/// Calls that panic and give no reason; `.expect("…")` and `unreachable!("…")` carry theirs in the message.
const PANICS: &[&str] = &[concat!(".unw", "rap()"), concat!("pan", "ic!(")];

/// Library and driver code gives errors; where it may panic after all, the reason stands on that line.
fn check_panics(name: &str, text: &str, problems: &mut Vec<String>) {
    let product = text.split("#[cfg(test)]\nmod tests {").next();
    let product = product.unwrap_or_default().lines();
    for (number, line) in (1..).zip(product) {
        let code = line.trim_start();
        let panics = PANICS.iter().any(|call| code.contains(call));
        if panics && !code.contains("//") {
            problems.push(format!(
                "{name}:{number}: may panic and does not say why it cannot"
            ));
        }
    }
}
