//! `cargo xtask tidy`: a test of the repository itself.
//!
//! Every rule is checked before any failure ends the run, so one run tells everything.

mod files;
mod graph;
mod licences;

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{cargo, run as run_command};
use crate::metadata::Metadata;

pub(crate) fn run() -> Result<()> {
    let metadata = Metadata::load()?;
    let mut failed = 0;
    let mut check = |name: &str, found: Result<Vec<String>>| {
        let problems = found.unwrap_or_else(|error| vec![format!("{error:#}")]);
        println!(
            "{name}: {}",
            if problems.is_empty() { "ok" } else { "FAILED" }
        );
        for problem in &problems {
            println!("  {problem}");
        }
        failed += problems.len();
    };
    check("crate graph", Ok(graph::check(&metadata)));
    check("files", files::check(&metadata));
    check("licences", licences::check(&metadata));
    check("formatting", tool(&mut cargo(&["fmt", "--all", "--check"])));
    let lints = ["clippy", "--workspace", "--all-targets", "--locked"];
    check("lints", tool(cargo(&lints).args(["--", "-Dwarnings"])));
    let documentation = ["doc", "--workspace", "--no-deps", "--locked"];
    check(
        "documentation",
        tool(cargo(&documentation).env("RUSTDOCFLAGS", "-Dwarnings")),
    );
    if failed > 0 {
        bail!("{failed} problem(s) found");
    }
    Ok(())
}

/// Runs a tool that prints its own findings.
fn tool(command: &mut Command) -> Result<Vec<String>> {
    run_command(command)?;
    Ok(Vec::new())
}
