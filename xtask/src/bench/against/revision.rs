//! A revision's benches, built: files that run without it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{cargo, output, root, run};

/// Everything that a comparison keeps, under the workspace's root.
const FOLDER: &str = "target/against";

/// A commit, or the working tree with what is not committed in it.
pub(crate) struct Revision {
    /// The commit's hash; of the working tree, that of `HEAD`.
    pub(crate) commit: String,
    /// Whether tracked files differ from the commit.
    pub(crate) modified: bool,
    source: PathBuf,
    benches: PathBuf,
}

impl Revision {
    /// What lies in the workspace now.
    pub(crate) fn here() -> Result<Self> {
        let status = git(&["status", "--porcelain"])?;
        let commit = hash("HEAD")?;
        let modified = !status.is_empty();
        let name = if modified { "modified" } else { &commit };
        Ok(Self {
            source: root(),
            benches: folder()?.join(name),
            commit,
            modified,
        })
    }

    /// What `name` means to git, checked out into a worktree that the next comparison uses again.
    pub(crate) fn checkout(name: &str) -> Result<Self> {
        let commit = hash(name)?;
        let source = folder()?.join("worktree");
        if source.join(".git").exists() {
            let mut checkout = Command::new("git");
            checkout.args(["checkout", "--quiet", "--force", "--detach", &commit]);
            run(checkout.current_dir(&source))?;
        } else {
            git(&["worktree", "prune"])?;
            let path = source.to_string_lossy();
            git(&["worktree", "add", "--quiet", "--detach", &path, &commit])?;
        }
        Ok(Self {
            benches: folder()?.join(&commit),
            source,
            commit,
            modified: false,
        })
    }

    /// The hash in short, with a `+` where the working tree differs.
    pub(crate) fn short(&self) -> String {
        let plus = if self.modified { "+" } else { "" };
        format!("{}{plus}", &self.commit[..self.commit.len().min(9)])
    }

    /// Whether this revision has that bench of that package.
    pub(crate) fn has(&self, package_folder: &str, bench: &str) -> bool {
        let file = format!("{package_folder}/benches/{bench}.rs");
        self.source.join(file).is_file()
    }

    /// Whether nothing differs between this commit and the workspace at `paths`, of what git tracks.
    pub(crate) fn is_workspace_in(&self, paths: &[PathBuf]) -> Result<bool> {
        let mut diff = Command::new("git");
        diff.args(["diff", "--quiet", &self.commit, "--"]);
        let status = diff.args(paths).current_dir(root()).status();
        let status = status.context("could not start git")?;
        Ok(status.success())
    }

    /// A folder of the revision's source.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.source.join(name)
    }

    /// The version of a package that `Cargo.lock` names.
    pub(crate) fn locked(&self, package: &str) -> Result<Option<String>> {
        let path = self.source.join("Cargo.lock");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(locked_version(&text, package))
    }

    /// Where the bench lies once it is built.
    pub(crate) fn program(&self, bench: &str) -> PathBuf {
        self.benches
            .join(format!("{bench}{}", std::env::consts::EXE_SUFFIX))
    }

    /// Builds `benches` of `package`, those of a commit only once.
    ///
    /// Both checkouts share a target directory, so that dependencies are built once. Cargo takes two checkouts of one
    /// workspace for the same, and files that are older than the last build for unchanged: what it knows of the
    /// workspace's own crates is thrown away when the other checkout was built last.
    pub(crate) fn build(&self, package: &str, benches: &[&str]) -> Result<()> {
        let built = |bench: &&str| !self.modified && self.program(bench).is_file();
        let missing: Vec<&str> = benches.iter().filter(|b| !built(b)).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        println!("building {} of {}", missing.join(", "), self.short());
        let target = folder()?.join("build");
        let in_source = |args: &[&str]| {
            let mut command = cargo(args);
            command.arg("--target-dir").arg(&target);
            command.current_dir(&self.source);
            command
        };
        let built_last = target.join("checkout");
        let here = self.source.to_string_lossy();
        if !fs::read_to_string(&built_last).is_ok_and(|last| last == here) {
            run(in_source(&["clean", "--quiet", "--workspace", "--release"]).stderr(Stdio::null()))?;
            fs::create_dir_all(&target)
                .and_then(|()| fs::write(&built_last, here.as_bytes()))
                .with_context(|| built_last.display().to_string())?;
        }
        let mut build = in_source(&["bench", "--no-run", "--quiet", "--locked"]);
        build.args(["--package", package, "--message-format=json"]);
        build.args(missing.iter().flat_map(|bench| ["--bench", bench]));
        let messages = output(&mut build)?;
        fs::create_dir_all(&self.benches).with_context(|| self.benches.display().to_string())?;
        for (name, program) in messages.lines().filter_map(bench_program) {
            let kept = self.program(&name);
            // Under its name it is whole.
            let part = kept.with_extension("part");
            fs::copy(&program, &part)
                .and_then(|_| fs::rename(&part, &kept))
                .with_context(|| kept.display().to_string())?;
        }
        Ok(())
    }
}

/// Absolute, because programs run elsewhere.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = root().join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Name and file of a bench, if that is what a line of cargo's messages is about.
fn bench_program(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = &message["target"];
    let is_bench = target["kind"]
        .as_array()?
        .iter()
        .any(|kind| kind == "bench");
    let program = Path::new(message["executable"].as_str()?);
    let name = target["name"].as_str()?;
    is_bench.then(|| (name.to_owned(), program.to_owned()))
}

fn locked_version(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1)?.strip_prefix("version = ")?;
    Some(version.trim_matches('"').to_owned())
}

fn hash(name: &str) -> Result<String> {
    let commit = format!("{name}^{{commit}}");
    git(&[
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        &commit,
    ])
    .with_context(|| format!("git knows no revision {name}"))
}

fn git(args: &[&str]) -> Result<String> {
    let text = output(Command::new("git").args(args).current_dir(root()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_lock() {
        let lock = "[[package]]\nname = \"ab\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"0.2.0\"\n";
        assert_eq!(locked_version(lock, "a").as_deref(), Some("0.2.0"));
        assert_eq!(locked_version(lock, "b"), None);
    }

    #[test]
    fn only_benches_count_among_messages() {
        let line = |kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"viterbi"}},"executable":"deps/viterbi-1"}}"#
            )
        };
        let expected = Some(("viterbi".to_owned(), PathBuf::from("deps/viterbi-1")));
        assert_eq!(bench_program(&line("bench")), expected);
        assert_eq!(bench_program(&line("bin")), None);
        assert_eq!(bench_program(r#"{"reason":"build-finished"}"#), None);
        assert_eq!(bench_program("not JSON"), None);
    }
}
