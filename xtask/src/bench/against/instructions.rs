//! Instructions of small fixed inputs, counted by Valgrind through gungraun: one run of each revision tells, on however
//! busy a machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{
    paired::Verdict,
    revision::{Revision, folder},
    times::json,
};
use crate::command::{cargo, output, root, run};
use crate::metadata::Metadata;

pub(crate) const PACKAGE: &str = "treillage-instructions";
pub(crate) const PACKAGE_FOLDER: &str = "benches/instructions";
pub(crate) const BENCH: &str = "instructions";

/// Counts repeat to within a few instructions, but where code lies in memory and how a compiler arranges it move them a
/// little.
pub(crate) const THRESHOLD: f64 = 0.02;

/// Instructions of one kernel.
pub(crate) struct Counted {
    pub(crate) kernel: String,
    pub(crate) old: u64,
    pub(crate) new: u64,
}

impl Counted {
    pub(crate) fn ratio(&self) -> f64 {
        self.new as f64 / self.old as f64
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match self.ratio() {
            ratio if ratio >= 1.0 + THRESHOLD => Verdict::Slower,
            ratio if ratio <= 1.0 / (1.0 + THRESHOLD) => Verdict::Faster,
            _ => Verdict::None,
        }
    }
}

/// Why nothing can be counted here, if so.
pub(crate) fn obstacle(revisions: [&Revision; 2]) -> Option<String> {
    let valgrind = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !valgrind.is_ok_and(|status| status.success()) {
        return Some("valgrind is not installed".to_owned());
    }
    if unchanged(revisions[0]).is_ok_and(|unchanged| unchanged) {
        return Some("nothing that they are counted of has changed".to_owned());
    }
    for revision in revisions {
        if !revision.has(PACKAGE_FOLDER, BENCH) {
            return Some(format!(
                "{} has no bench that counts them",
                revision.short()
            ));
        }
        if let Err(error) = locked_runner(revision) {
            return Some(format!("{error:#}"));
        }
    }
    None
}

/// Whether the workspace is what `old` is in all that the bench is built of.
fn unchanged(old: &Revision) -> Result<bool> {
    let metadata = Metadata::load()?;
    let package = metadata.members().find(|package| package.name == PACKAGE);
    let package = package.with_context(|| format!("there is no {PACKAGE}"))?;
    let mut paths: Vec<_> = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"]
        .map(|file| root().join(file))
        .into();
    paths.push(package.folder.clone());
    paths.extend(
        metadata
            .tested(package)
            .map(|package| package.folder.clone()),
    );
    old.is_workspace_in(&paths)
}

/// The folder of what runs a revision's bench: see [`runner`].
fn locked_runner(revision: &Revision) -> Result<Option<PathBuf>> {
    let version = revision
        .locked("gungraun")?
        .with_context(|| format!("{} locks no gungraun", revision.short()))?;
    runner(&version)
}

/// Counts both, which are built; a kernel that one revision lacks is not compared.
pub(crate) fn compare([old, new]: [&Revision; 2]) -> Result<Vec<Counted>> {
    let old = count(old)?;
    let new = count(new)?;
    let both = old.into_iter().filter_map(|(kernel, old)| {
        let new = *new.get(&kernel)?;
        Some(Counted { kernel, old, new })
    });
    Ok(both.collect())
}

fn count(revision: &Revision) -> Result<BTreeMap<String, u64>> {
    let home = folder()?.join("gungraun");
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| home.display().to_string())?;
    }
    println!("counting instructions of {}", revision.short());
    let mut command = Command::new(revision.program(BENCH));
    command.args(["--bench", "--save-summary=json"]);
    if let Some(runner) = locked_runner(revision)? {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(runner).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(paths)?);
    }
    command.env("GUNGRAUN_HOME", &home);
    // It finds its package by way of cargo.
    command.current_dir(revision.folder(PACKAGE_FOLDER));
    output(&mut command)?;
    let mut found = BTreeMap::new();
    summaries(&home, &mut found)?;
    if found.is_empty() {
        bail!("{}: gungraun left no summaries", home.display());
    }
    Ok(found)
}

/// The folder of gungraun's other half, of the same version, below the target folder; `None` where it is installed.
fn runner(version: &str) -> Result<Option<PathBuf>> {
    let is_it = |program: &Path| {
        let output = Command::new(program).arg("--version").output();
        output.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout);
            text.split_whitespace().any(|word| word == version)
        })
    };
    let name = "gungraun-runner";
    if is_it(Path::new(name)) {
        return Ok(None);
    }
    let root = folder()?.join(format!("{name}-{version}"));
    let programs = root.join("bin");
    if !is_it(&programs.join(name)) {
        println!("installing {name} {version} into {}", root.display());
        // It only starts other programs, so it need not be fast.
        let mut install = cargo(&["install", name, "--version", version]);
        install.args(["--debug", "--locked", "--quiet", "--root"]);
        run(install.arg(&root))?;
    }
    Ok(Some(programs))
}

/// The counts in gungraun's folders below `folder`.
fn summaries(folder: &Path, found: &mut BTreeMap<String, u64>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            summaries(&path, found)?;
        } else if path.ends_with("summary.json") {
            let summary = json(path.clone())?;
            let name = summary["function_name"].as_str();
            let id = summary["id"].as_str();
            let count = summary["profiles"]
                .as_array()
                .and_then(|profiles| profiles.first())
                .and_then(|profile| {
                    profile
                        .pointer("/data/total/metrics/Ir/values/new")
                        .or_else(|| profile.pointer("/data/parts/0/metrics/Ir/values/new"))
                })
                .and_then(serde_json::Value::as_u64);
            let context = || format!("{}: not what gungraun writes", path.display());
            let ((name, id), count) = name.zip(id).zip(count).with_context(context)?;
            found.insert(format!("{name}/{id}"), count);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_in_a_hundred_more_instructions_are_slower() {
        let verdict = |old, new| {
            let kernel = String::new();
            Counted { kernel, old, new }.verdict()
        };
        assert_eq!(verdict(10_000, 10_199), Verdict::None);
        assert_eq!(verdict(10_000, 10_200), Verdict::Slower);
        assert_eq!(verdict(10_200, 10_000), Verdict::Faster);
        assert_eq!(verdict(10_000, 9_900), Verdict::None);
    }
}
