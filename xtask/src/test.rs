//! `cargo xtask test`: the whole suite, as continuous integration runs it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::command::{cargo, root, run as run_command};

/// Where tests find data that is too large for the repository.
const SHARED: &str = "TREILLAGE_SHARED";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose names contain this
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let shared = shared_data()?;
    match &shared {
        Some(path) => println!("shared data: {}", path.display()),
        None => println!("shared data: none; tests that need it are skipped (set {SHARED})"),
    }
    // Not nextest: one suite of `quantize` is a process of its own, to be killed, without the usual harness.
    let suite: &[&str] = &[
        "test",
        "--workspace",
        "--locked",
        "--lib",
        "--bins",
        "--tests",
    ];
    for arguments in [suite, &["test", "--workspace", "--locked", "--doc"]] {
        let mut command = cargo(arguments);
        command.args(&args.filter);
        if let Some(path) = &shared {
            // Tests run in their own crate's folder, so a relative path would lead nowhere.
            command.env(SHARED, path);
        }
        run_command(&mut command)?;
    }
    Ok(())
}

/// The folder of shared data: the one asked for, which must be there, else the workspace's neighbour, if it is there.
fn shared_data() -> Result<Option<PathBuf>> {
    match std::env::var_os(SHARED).map(PathBuf::from) {
        Some(path) => path
            .canonicalize()
            .map(Some)
            .with_context(|| format!("{SHARED} names {}", path.display())),
        None => Ok(root().join("../shared").canonicalize().ok()),
    }
}
