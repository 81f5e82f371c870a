//! `cargo xtask bench`: builds a measurement in release and runs it.

use anyhow::Result;

use crate::command::{cargo, run as run_command};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure
    what: What,
    /// Arguments for the measurement; `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The Viterbi encoder: tiles per second and error per rate
    Encode,
    /// One packed linear: weights per second per SIMD level, rate and batch
    Linear,
    /// A random model: prefill and decode, tokens per second
    Decode,
    /// KL divergence of the recipes on the fixture
    Quality,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (binary, verb): (_, Option<&str>) = match args.what {
        What::Encode => ("bench", Some("encode")),
        What::Linear => ("bench", Some("linear")),
        What::Decode => ("bench", Some("decode")),
        What::Quality => ("quality", None),
    };
    run_command(
        cargo(&["run", "--release", "--locked", "--package"])
            .args(["treillage-benches", "--bin", binary, "--"])
            .args(verb)
            .args(&args.arguments),
    )
}
