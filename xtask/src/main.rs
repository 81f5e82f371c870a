//! Repository chores: `cargo xtask <verb>`.
//!
//! One file a verb. Continuous integration runs these verbs and nothing else, so a laptop sees what it sees.
#![forbid(unsafe_code)]

mod bench;
mod command;
mod interop;
mod metadata;
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
    #[command(disable_help_flag = true)]
    Shaders {
        /// A kernel and how to print it; `--help` lists it all
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Tidy => tidy::run(),
        Verb::Test(args) => test::run(&args),
        Verb::Interop(args) => interop::run(&args),
        Verb::Bench(args) => return exit(bench::run(&args)),
        Verb::Shaders { arguments } => shaders(&arguments),
    };
    exit(result.map(|()| ExitCode::SUCCESS))
}

fn shaders(arguments: &[String]) -> Result<()> {
    let example = [
        "run",
        "--locked",
        "--quiet",
        "--package",
        "treillage-shaders",
    ];
    let mut command = command::cargo(&example);
    command.args(["--example", "kernels", "--"]);
    command::run(command.args(arguments))
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
