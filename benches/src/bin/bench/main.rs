//! Measures what the README promises. Run it through `cargo xtask bench`, which builds it in release.
#![forbid(unsafe_code)]

mod decode;
mod device;
mod encode;
mod gptq;
mod layer;
mod linear;
mod report;
mod suite;

use std::{fmt, path::PathBuf, process::ExitCode, str::FromStr};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use treillage_benches::artifact::Artifact;
use treillage_cpu::Arithmetic;
use treillage_gptq::Format;

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
    /// One linear, packed or grouped, on CPU or GPU: weights per second
    Linear(linear::Args),
    /// The stages of MR-GPTQ: milliseconds, and error of the layer
    Gptq(gptq::Args),
    /// A block of full size: calibrated, encoded and written, seconds by stage, and hours that a model of such blocks takes
    Layer(layer::Args),
    /// A random model: prefill and decode, ms per token, memory, profile by kernel
    Decode(decode::Args),
    /// All of these, one after the other, and a report of them
    Suite(suite::Args),
    /// A report of what was measured before: Markdown, JSON and a page
    Report(report::Args),
}

/// What linears are made of, trellis codes of some rate aside.
#[derive(Clone, Copy)]
enum Storage {
    Trellis,
    Grouped(Format),
    Bf16,
}

impl FromStr for Storage {
    type Err = treillage_gptq::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "trellis" => Ok(Storage::Trellis),
            "bf16" => Ok(Storage::Bf16),
            format => Ok(Storage::Grouped(format.parse()?)),
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Storage::Trellis => f.pad("trellis"),
            Storage::Grouped(format) => format.fmt(f),
            Storage::Bf16 => f.pad("bf16"),
        }
    }
}

/// How linears are multiplied.
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
    let artifact = match cli.what.measure()? {
        Some(artifact) => artifact,
        None => return Ok(()),
    };
    let path = artifact.write(cli.out.as_deref())?;
    println!("{}", path.display());
    Ok(())
}

impl What {
    /// What a measurement found; `None` from what writes its files itself.
    fn measure(&self) -> Result<Option<Artifact>> {
        Ok(Some(match self {
            What::Encode(args) => encode::run(args)?,
            What::Linear(args) => linear::run(args)?,
            What::Gptq(args) => gptq::run(args)?,
            What::Layer(args) => layer::run(args)?,
            What::Decode(args) => decode::run(args)?,
            What::Suite(args) => {
                suite::run(args)?;
                return Ok(None);
            }
            What::Report(args) => {
                report::run(args)?;
                return Ok(None);
            }
        }))
    }
}

/// A rayon pool of its own size, apart from the global one.
fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()?)
}
