//! How far quantized models are from their original, on text that calibration did not see: trellis codes per recipe
//! and rate, or MR-GPTQ per format and solver.
//!
//! Each figure is a mean, with the spread beside it: of trellis codes over several seeds of their random signs, with
//! `--disjoint` each with a part of the calibration text of its own, of MR-GPTQ, which draws nothing, over calibration with disjoint
//! parts of the text.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::json;
use treillage_benches::{
    artifact::Artifact,
    trials::{Found, Setting, Trials},
};
use treillage_gptq::{Format, Rotation, Solver};
use treillage_model::text::Tokenizer;
use treillage_quantize::{
    AllocationRule, CalibrationTokens, ExpertTokens, GptqOptions, HeadBits, Options, Recipe,
    RotationRule, TrellisOptions,
};

/// Quantizes a model in several ways and compares each result with the original
#[derive(Parser)]
struct Args {
    /// How weights are coded
    #[arg(long, value_enum, default_value_t = MethodName::Trellis)]
    method: MethodName,
    /// The checkpoint to quantize
    #[arg(long, default_value = "fixtures/micro-qwen3_moe")]
    model: PathBuf,
    /// Trellis: bits per weight
    #[arg(long, value_delimiter = ',', default_value = "4,3,2")]
    bpw: Vec<f64>,
    /// Trellis: bits of the head; 16 keeps it
    #[arg(long, default_value_t = 6)]
    head_bits: u8,
    /// Trellis: `treillage`, `original`, `routed` and `all` (experts' Hessians of their own tokens alone, and of all tokens), or
    /// the fields of a recipe that differ from `treillage`'s, as JSON; may be repeated
    #[arg(long = "recipe", default_values = ["original", "treillage"])]
    recipes: Vec<String>,
    /// MR-GPTQ: formats
    #[arg(long, value_delimiter = ',', default_value = "int4,nvfp4,mxfp4")]
    formats: Vec<Format>,
    /// MR-GPTQ: `rtn`, `gptq` (not rotated), `mr-gptq`, or the fields of options that differ from `mr-gptq`'s, as JSON; may
    /// be repeated
    #[arg(long = "variant", default_values = ["rtn", "gptq", "mr-gptq"])]
    variants: Vec<String>,
    /// Seeds, or parts of the calibration text, to average over
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Trellis: give each seed a part of the calibration text of its own, and its share of the rows
    #[arg(long)]
    disjoint: bool,
    #[command(flatten)]
    setting: Setting,
    /// Where the artifact goes
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum MethodName {
    Trellis,
    MrGptq,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let windows = args.setting.windows();
    let trials = Trials::new(&args.model, &args.setting.text, windows)?;
    let mut artifact = Artifact::new(
        "quality",
        json!({
            "model": args.model,
            "calibration": [args.setting.calib_rows, args.setting.calib_cols],
            "head_bits": args.head_bits,
            "seeds": args.seeds,
            "disjoint": args.disjoint,
            "context": args.setting.context,
            "windows": args.setting.windows,
        }),
    );
    match args.method {
        MethodName::Trellis => trellis(&trials, &args, &mut artifact)?,
        MethodName::MrGptq => mr_gptq(&trials, &args, &mut artifact)?,
    }
    println!("\n{}", artifact.write(args.out.as_deref())?.display());
    Ok(())
}

fn parse_recipe(name: &str) -> Result<Recipe> {
    match name {
        "treillage" => Ok(Recipe::treillage()),
        "original" => Ok(Recipe::original()),
        "routed" => Ok(Recipe {
            experts: ExpertTokens::routed(),
            ..Recipe::treillage()
        }),
        "all" => Ok(Recipe {
            experts: ExpertTokens::All,
            ..Recipe::treillage()
        }),
        json if json.starts_with('{') => serde_json::from_str(json).context("--recipe"),
        other => {
            bail!("no recipe `{other}`: expected treillage, original, routed, all or a JSON object")
        }
    }
}

fn parse_variant(name: &str, format: Format) -> Result<GptqOptions> {
    let auto = GptqOptions::new(format);
    let unrotated = RotationRule::Fixed(Rotation::None);
    Ok(match name {
        "mr-gptq" => auto,
        "gptq" => GptqOptions {
            rotation: unrotated,
            ..auto
        },
        "rtn" => GptqOptions {
            rotation: unrotated,
            solver: Solver::Rtn,
            ..auto
        },
        json if json.starts_with('{') => {
            let mut options = serde_json::to_value(auto)?;
            let edits: serde_json::Map<_, _> = serde_json::from_str(json).context("--variant")?;
            for (field, value) in edits {
                options[field] = value;
            }
            serde_json::from_value(options).context("--variant")?
        }
        other => bail!("no variant `{other}`: expected rtn, gptq, mr-gptq or a JSON object"),
    })
}

/// Trellis codes, by rate and recipe.
fn trellis(trials: &Trials<'_>, args: &Args, artifact: &mut Artifact) -> Result<()> {
    let recipes = args.recipes.iter();
    let recipes = recipes.map(|name| Ok((name.as_str(), parse_recipe(name)?)));
    let recipes = recipes.collect::<Result<Vec<_>>>()?;
    let calibrations = match args.disjoint {
        true => parts(args, &trials.tokenizer)?,
        false => vec![args.setting.calibration(&trials.tokenizer)?],
    };
    println!(
        "| bpw | recipe | KL divergence, nats/token | against the first | perplexity | same top token | s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for &bits_per_weight in &args.bpw {
        let mut first: Option<Found> = None;
        for (name, recipe) in &recipes {
            let trellis = TrellisOptions {
                bits_per_weight,
                head_bits: HeadBits::try_from(args.head_bits)?,
                // Recipes are compared at equal rates, and the original knows no others.
                allocation: AllocationRule::Position,
                ..TrellisOptions::default()
            };
            let calibrations = calibrations.iter().cycle();
            let jobs = (0..args.seeds)
                .zip(calibrations)
                .map(|(seed, calibration)| {
                    let options = Options {
                        seed,
                        recipe: recipe.clone(),
                        ..Options::trellis(trellis.clone())
                    };
                    (options, calibration)
                });
            let found = trials.found(jobs)?;
            let step = first.as_ref().map(|first| found.minus(first));
            let (divergence, rest) = found.cells();
            let shown = shown(step);
            println!("| {bits_per_weight} | {name} | {divergence} | {shown} | {rest} |");
            artifact.push(found.json(json!({
                "bits_per_weight": bits_per_weight,
                "recipe": recipe,
                "against_the_first": step,
            })));
            first.get_or_insert(found);
        }
    }
    Ok(())
}

/// MR-GPTQ, by format and variant.
fn mr_gptq(trials: &Trials<'_>, args: &Args, artifact: &mut Artifact) -> Result<()> {
    let parts = parts(args, &trials.tokenizer)?;
    println!(
        "| format | variant | KL divergence, nats/token | against the row above | perplexity | same top token | s |"
    );
    println!("|---|---|---|---|---|---|---|");
    for &format in &args.formats {
        let mut above: Option<Found> = None;
        for name in &args.variants {
            let gptq = parse_variant(name, format)?;
            let jobs = parts
                .iter()
                .map(|part| (Options::mr_gptq(gptq.clone()), part));
            let found = trials.found(jobs)?;
            let step = above.as_ref().map(|above| found.minus(above));
            let step_shown = shown(step);
            let (divergence, rest) = found.cells();
            println!("| {format} | {name} | {divergence} | {step_shown} | {rest} |");
            artifact.push(found.json(json!({
                "format": format.name(),
                "variant": name,
                "options": gptq,
                "against_the_row_above": step,
            })));
            above = Some(found);
        }
    }
    Ok(())
}

/// A difference and its spread, if there is one.
fn shown(step: Option<(f64, f64)>) -> String {
    step.map_or("–".to_owned(), |(mean, deviation)| {
        format!("{mean:+.5} ± {deviation:.5}")
    })
}

/// Disjoint parts of the calibration text, each with its share of the rows.
fn parts(args: &Args, tokenizer: &Tokenizer) -> Result<Vec<CalibrationTokens>> {
    let mut ids = Vec::new();
    for path in &args.setting.calib {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        ids.extend(tokenizer.encode(&text)?);
    }
    let parts = args.seeds as usize;
    let part = |n: usize| n * ids.len() / parts;
    let rows = args.setting.calib_rows.div_ceil(parts);
    (0..parts)
        .map(|n| {
            let ids = &ids[part(n)..part(n + 1)];
            Ok(CalibrationTokens::spread(
                ids,
                rows,
                args.setting.calib_cols,
            )?)
        })
        .collect()
}
