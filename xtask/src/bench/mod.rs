//! `cargo xtask bench`: builds a measurement in release and runs it, or compares two revisions.

mod against;

use std::process::ExitCode;

use anyhow::Result;

use crate::command::{cargo, run as run_command};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure; by default, everything that the summary reports
    what: Option<What>,
    /// Less of everything, where everything is measured: a few minutes on two cores
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    comparison: against::Comparison,
    /// Arguments for the measurement; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Everything that the summary reports, on what this machine has, and the summary itself
    Suite,
    /// The summary of what was measured before: of the latest suite, or of the artifacts that are named
    Report,
    /// The Viterbi encoder: tiles per second and error per rate
    Encode,
    /// One linear, packed or grouped, on CPU or GPU: weights per second, by rate or format, and batch
    Linear,
    /// The stages of MR-GPTQ: milliseconds, and error of the layer
    Gptq,
    /// A block of full size, quantized on CPU or GPU: seconds by stage, and hours of the model
    Layer,
    /// A random model, small or of full size, on CPU or GPU: prefill, ms per token, memory, profile by kernel
    Decode,
    /// KL divergence of rates by sensitivity against rates by position, on three small models
    Allocation,
    /// KL divergence on the fixture: of recipes, or with --method mr-gptq of formats and solvers
    Quality,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let artifact = match (&args.comparison.against, args.what) {
        (Some(revision), None) => return against::run(revision, &args.comparison),
        (named, _) => named,
    };
    let (binary, verb): (_, Option<&str>) = match args.what.unwrap_or(What::Suite) {
        What::Suite => ("bench", Some("suite")),
        What::Report => ("bench", Some("report")),
        What::Encode => ("bench", Some("encode")),
        What::Linear => ("bench", Some("linear")),
        What::Gptq => ("bench", Some("gptq")),
        What::Layer => ("bench", Some("layer")),
        What::Decode => ("bench", Some("decode")),
        What::Allocation => ("allocation", None),
        What::Quality => ("quality", None),
    };
    run_command(
        cargo(&["run", "--release", "--locked", "--package"])
            .args(["treillage-benches", "--bin", binary, "--"])
            .args(verb)
            .args(args.quick.then_some("--quick"))
            .args(artifact.iter().flat_map(|file| ["--against", file]))
            .args(&args.arguments),
    )?;
    Ok(ExitCode::SUCCESS)
}
