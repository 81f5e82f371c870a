//! Measures what the README promises. Run it through `cargo xtask bench`, which builds it in release.
#![forbid(unsafe_code)]

mod decode;
mod encode;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use treillage_benches::artifact::Artifact;

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
    /// A random model: prefill and decode, tokens per second
    Decode(decode::Args),
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
