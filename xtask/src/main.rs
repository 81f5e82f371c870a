//! Repository chores: `cargo xtask <verb>`.
//!
//! One file a verb. Continuous integration runs these verbs and nothing else, so a laptop sees what it sees.
#![forbid(unsafe_code)]

mod bench;
mod command;
mod interop;
mod shaders;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the treillage repository")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Check the repository itself: crate graph, files, formatting, lints, docs, licences
    Tidy,
    /// Run every test, documentation examples included
    Test(test::Args),
    /// Exchange quantized checkpoints with other programs, in a Python environment of their own
    Interop(interop::Args),
    /// Measure, in release, or compare the speed of two revisions: tables on the terminal, JSON and a summary under
    /// target/bench/
    Bench(bench::Args),
    /// Print a kernel as WGSL, MSL or SPIR-V, or list all kernels
    Shaders(shaders::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Tidy => tidy::run(),
        Verb::Test(args) => test::run(&args),
        Verb::Interop(args) => interop::run(&args),
        Verb::Bench(args) => return exit(bench::run(&args)),
        Verb::Shaders(args) => shaders::run(&args),
    };
    exit(result.map(|()| ExitCode::SUCCESS))
}

fn exit(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
