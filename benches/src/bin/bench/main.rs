//! Measures what the README promises. Run it through `cargo xtask bench`, which builds it in release.
#![forbid(unsafe_code)]

mod decode;
mod encode;
mod linear;

use std::{fmt, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use treillage_benches::artifact::Artifact;
use treillage_cpu::Arithmetic;

#[derive(Parser)]
#[command(about = "Measurements of the treillage workspace")]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// Where the JSON goes; by default target/bench/
    #[arg(long, value_name = "FILE", global = true)]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum What {
    /// The Viterbi encoder: tiles per second, and error on N(0, 1)
    Encode(encode::Args),
    /// One packed linear: weights per second
    Linear(linear::Args),
    /// A random model: prefill and decode, tokens per second
    Decode(decode::Args),
}

/// How packed linears are multiplied.
#[derive(Clone, Copy, ValueEnum)]
enum ArithmeticChoice {
    Exact,
    Int8,
}

impl From<ArithmeticChoice> for Arithmetic {
    fn from(choice: ArithmeticChoice) -> Self {
        match choice {
            ArithmeticChoice::Exact => Arithmetic::Exact,
            ArithmeticChoice::Int8 => Arithmetic::Int8,
        }
    }
}

impl fmt::Display for ArithmeticChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ArithmeticChoice::Exact => "exact",
            ArithmeticChoice::Int8 => "int8",
        })
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    let artifact: Artifact = match cli.what {
        What::Encode(args) => encode::run(&args)?,
        What::Linear(args) => linear::run(&args)?,
        What::Decode(args) => decode::run(&args)?,
    };
    let path = artifact.write(cli.out.as_deref())?;
    println!("{}", path.display());
    Ok(())
}

/// A rayon pool of its own size, apart from the global one.
fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?)
}
