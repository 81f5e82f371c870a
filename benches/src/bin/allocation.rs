//! Is it better to spend bits where errors cost most than by position, at the same average?
//!
//! Each figure is a mean over several seeds of the random signs, with its standard deviation.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use serde_json::json;
use treillage_benches::{
    artifact::Artifact,
    trials::{Setting, Trials, mean},
};
use treillage_quantize::{AllocationRule, Options, TrellisOptions};

/// Quantizes models with their bits spent in several ways and compares each result with the original
#[derive(Parser)]
struct Args {
    /// The checkpoints to quantize
    #[arg(long, num_args = 1.., default_values = [
        "fixtures/micro-qwen3_moe",
        "fixtures/micro-glm4_moe_lite",
        "fixtures/micro-qwen3_next",
    ])]
    models: Vec<PathBuf>,
    /// Average bits per weight
    #[arg(long, value_delimiter = ',', default_value = "2.5,3")]
    bpw: Vec<f64>,
    /// Seeds to average over
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    #[command(flatten)]
    setting: Setting,
    /// Where the artifact goes
    #[arg(long)]
    out: Option<PathBuf>,
}

/// How bits are spent: a name, the rule, whether a layer's experts agree. The first is what others are compared with.
const STRATEGIES: [(&str, AllocationRule, bool); 3] = [
    ("position", AllocationRule::Position, true),
    (
        "sensitivity, uniform experts",
        AllocationRule::Sensitivity,
        true,
    ),
    ("sensitivity", AllocationRule::Sensitivity, false),
];

fn main() -> Result<()> {
    let args = Args::parse();
    let mut artifact = Artifact::new(
        "allocation",
        json!({
            "models": args.models,
            "calibration": [args.setting.calib_rows, args.setting.calib_cols],
            "seeds": args.seeds,
            "context": args.setting.context,
            "windows": args.setting.windows,
        }),
    );
    let windows = args.setting.windows();
    // By strategy, of all models and averages.
    let mut ratios = [const { Vec::new() }; STRATEGIES.len()];
    println!(
        "| model | bpw | allocation | bytes | KL divergence, nats/token | against position | perplexity | same top token | s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for model in &args.models {
        let trials = Trials::new(model, &args.setting.text, windows)?;
        let calibration = args.setting.calibration(&trials.tokenizer)?;
        let name = model.file_name().unwrap_or_default().to_string_lossy();
        for &bits_per_weight in &args.bpw {
            let mut by_position = None;
            for ((strategy, allocation, uniform_experts), ratios) in
                STRATEGIES.into_iter().zip(&mut ratios)
            {
                let trellis = TrellisOptions {
                    bits_per_weight,
                    allocation,
                    uniform_experts,
                    ..TrellisOptions::default()
                };
                let jobs = (0..args.seeds).map(|seed| {
                    let options = Options {
                        seed,
                        ..Options::trellis(trellis.clone())
                    };
                    (options, &calibration)
                });
                let found = trials.found(jobs)?;
                let divergence = mean(&found.divergences()).0;
                let ratio = divergence / *by_position.get_or_insert(divergence);
                ratios.push(ratio);
                let (shown, rest) = found.cells();
                let (bytes, against) = (found.bytes, percent(ratio));
                println!(
                    "| {name} | {bits_per_weight} | {strategy} | {bytes} | {shown} | {against} | {rest} |"
                );
                artifact.push(found.json(json!({
                    "model": name,
                    "bits_per_weight": bits_per_weight,
                    "allocation": strategy,
                    "against_position": ratio,
                })));
            }
        }
    }
    println!();
    for ((strategy, ..), ratios) in STRATEGIES.into_iter().zip(&ratios).skip(1) {
        let worst = ratios.iter().copied().fold(0.0, f64::max);
        let (average, worst) = (percent(mean(ratios).0), percent(worst));
        println!("{strategy}: {average} against position on average, {worst} at worst");
    }
    println!("\n{}", artifact.write(args.out.as_deref())?.display());
    Ok(())
}

/// The change that a ratio stands for.
fn percent(ratio: f64) -> String {
    format!("{:+.1} %", 100.0 * (ratio - 1.0))
}
