//! How far quantized models are from their original, on text that calibration did not see: trellis codes per recipe
//! and rate, or MR-GPTQ per format and solver.
//!
//! Each figure is a mean, with the spread beside it: of trellis codes over several seeds of their random signs, of
//! MR-GPTQ, which draws nothing, over calibration with disjoint parts of the text.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};
use treillage_benches::artifact::Artifact;
use treillage_checkpoint::Checkpoint;
use treillage_cpu::CpuBackend;
use treillage_gptq::{Format, Rotation, Solver};
use treillage_model::{
    Model,
    evaluate::{Comparison, Windows, compare},
    text::Tokenizer,
};
use treillage_quantize::{
    AllocationRule, CalibrationTokens, GptqOptions, HeadBits, Options, Recipe, RotationRule,
    TrellisOptions, quantize,
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
    /// Calibration text
    #[arg(long, default_value = "fixtures/text/calib.txt")]
    calib: Vec<PathBuf>,
    /// Evaluation text
    #[arg(long, default_value = "fixtures/text/eval.txt")]
    text: PathBuf,
    /// Trellis: bits per weight
    #[arg(long, value_delimiter = ',', default_value = "4,3,2")]
    bpw: Vec<f64>,
    /// Trellis: how bits are spent: sensitivity, sensitivity-uniform-experts, position or uniform
    #[arg(long, value_delimiter = ',', default_value = "position")]
    allocation: Vec<Strategy>,
    /// Trellis: bits of the head; 16 keeps it
    #[arg(long, default_value_t = 6)]
    head_bits: u8,
    /// Trellis: `treillage`, `original`, or the fields of a recipe that differ from `treillage`'s, as JSON; may be repeated
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
    /// Calibration rows, of all parts together
    #[arg(long, default_value_t = CalibrationTokens::ROWS)]
    calib_rows: usize,
    /// Tokens of a calibration row
    #[arg(long, default_value_t = CalibrationTokens::COLS)]
    calib_cols: usize,
    /// Evaluation windows; all that the text fills unless given
    #[arg(long)]
    windows: Option<usize>,
    /// Tokens of an evaluation window
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Where the artifact goes
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum MethodName {
    Trellis,
    MrGptq,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Strategy {
    Sensitivity,
    SensitivityUniformExperts,
    Position,
    Uniform,
}

impl Strategy {
    fn rule(self) -> AllocationRule {
        match self {
            Strategy::Sensitivity | Strategy::SensitivityUniformExperts => {
                AllocationRule::Sensitivity
            }
            Strategy::Position => AllocationRule::Position,
            Strategy::Uniform => AllocationRule::Uniform,
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let backend = CpuBackend::default();
    let tokenizer = Tokenizer::open(&args.model)?;
    let text = fs::read_to_string(&args.text).with_context(|| args.text.display().to_string())?;
    let bench = Bench {
        reference: load(&backend, &args.model)?,
        backend: &backend,
        tokens: tokenizer.encode(&text)?,
        windows: Windows {
            length: args.context,
            limit: args.windows,
        },
        source: &args.model,
    };
    let mut artifact = Artifact::new(
        "quality",
        json!({
            "model": args.model,
            "calibration": [args.calib_rows, args.calib_cols],
            "head_bits": args.head_bits,
            "seeds": args.seeds,
            "context": args.context,
            "windows": args.windows,
        }),
    );
    match args.method {
        MethodName::Trellis => bench.trellis(&args, &tokenizer, &mut artifact)?,
        MethodName::MrGptq => bench.mr_gptq(&args, &tokenizer, &mut artifact)?,
    }
    println!("\n{}", artifact.write(args.out.as_deref())?.display());
    Ok(())
}

fn parse_recipe(name: &str) -> Result<Recipe> {
    match name {
        "treillage" => Ok(Recipe::treillage()),
        "original" => Ok(Recipe::original()),
        json if json.starts_with('{') => serde_json::from_str(json).context("--recipe"),
        other => bail!("no recipe `{other}`: expected treillage, original or a JSON object"),
    }
}

fn load(backend: &CpuBackend, dir: &Path) -> Result<Model<CpuBackend>> {
    let checkpoint = Checkpoint::open(dir)?;
    Ok(Model::load(backend, &checkpoint, checkpoint.config())?)
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

/// What every result is made from and judged by.
struct Bench<'a> {
    backend: &'a CpuBackend,
    source: &'a Path,
    reference: Model<CpuBackend>,
    tokens: Vec<u32>,
    windows: Windows,
}

impl Bench<'_> {
    fn trellis(&self, args: &Args, tokenizer: &Tokenizer, artifact: &mut Artifact) -> Result<()> {
        let recipes = args.recipes.iter();
        let recipes = recipes.map(|name| Ok((name.as_str(), parse_recipe(name)?)));
        let recipes = recipes.collect::<Result<Vec<_>>>()?;
        let (rows, cols) = (args.calib_rows, args.calib_cols);
        let calibration = CalibrationTokens::read(tokenizer, &args.calib, rows, cols)?;
        println!("| bpw | recipe | KL divergence, nats/token | perplexity | same top token | s |");
        println!("|---|---|---|---|---|---|");
        for &bits_per_weight in &args.bpw {
            for (name, recipe, strategy) in recipes
                .iter()
                .flat_map(|(n, r)| args.allocation.iter().map(move |s| (n, r, *s)))
            {
                let trellis = TrellisOptions {
                    bits_per_weight,
                    allocation: strategy.rule(),
                    uniform_experts: strategy == Strategy::SensitivityUniformExperts,
                    head_bits: HeadBits::try_from(args.head_bits)?,
                    ..TrellisOptions::default()
                };
                let trials = (0..args.seeds).map(|seed| {
                    let options = Options {
                        seed,
                        recipe: recipe.clone(),
                        ..Options::trellis(trellis.clone())
                    };
                    (options, &calibration)
                });
                let found = self.found(trials)?;
                println!("| {bits_per_weight} | {name} | {} |", found.row());
                artifact.push(found.json(json!({
                    "bits_per_weight": bits_per_weight,
                    "recipe": recipe,
                })));
            }
        }
        Ok(())
    }

    fn mr_gptq(&self, args: &Args, tokenizer: &Tokenizer, artifact: &mut Artifact) -> Result<()> {
        let parts = parts(args, tokenizer)?;
        println!(
            "| format | variant | KL divergence, nats/token | against the row above | perplexity | same top token | s |"
        );
        println!("|---|---|---|---|---|---|---|");
        for &format in &args.formats {
            let mut above: Option<Found> = None;
            for name in &args.variants {
                let gptq = parse_variant(name, format)?;
                let trials = parts.iter();
                let trials = trials.map(|part| (Options::mr_gptq(gptq.clone()), part));
                let found = self.found(trials)?;
                let step = above.as_ref().map(|above| found.minus(above));
                let step_shown = step.map_or("–".to_owned(), |(mean, deviation)| {
                    format!("{mean:+.5} ± {deviation:.5}")
                });
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

    /// Quantizes and judges, trial by trial.
    fn found<'t>(
        &self,
        trials: impl Iterator<Item = (Options, &'t CalibrationTokens)>,
    ) -> Result<Found> {
        let started = Instant::now();
        let mut results = Vec::new();
        for (options, calibration) in trials {
            let out = Scratch::new()?;
            let (backend, source) = (self.backend, self.source);
            quantize(backend, source, &out.0, calibration, &options, &mut |_| ())?;
            results.push(self.judged(&out.0)?);
        }
        let seconds = started.elapsed().as_secs_f64() / results.len() as f64;
        Ok(Found { results, seconds })
    }

    fn judged(&self, quantized: &Path) -> Result<Comparison> {
        let model = load(self.backend, quantized)?;
        let mut session = model.session(self.backend, self.windows.length)?;
        let mut reference = self.reference.session(self.backend, self.windows.length)?;
        let (tokens, windows) = (&self.tokens, self.windows);
        Ok(compare(
            &mut session,
            &mut reference,
            tokens,
            windows,
            &mut |_| (),
        )?)
    }
}

/// Disjoint parts of the calibration text, each with its share of the rows.
fn parts(args: &Args, tokenizer: &Tokenizer) -> Result<Vec<CalibrationTokens>> {
    let mut ids = Vec::new();
    for path in &args.calib {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        ids.extend(tokenizer.encode(&text)?);
    }
    let parts = args.seeds as usize;
    let part = |n: usize| n * ids.len() / parts;
    let rows = args.calib_rows.div_ceil(parts);
    (0..parts)
        .map(|n| {
            let ids = &ids[part(n)..part(n + 1)];
            Ok(CalibrationTokens::spread(ids, rows, args.calib_cols)?)
        })
        .collect()
}

/// Results of trials that differ by chance alone.
struct Found {
    results: Vec<Comparison>,
    seconds: f64,
}

impl Found {
    fn divergences(&self) -> Vec<f64> {
        self.results.iter().map(|c| c.kl_divergence).collect()
    }

    fn mean(&self, of: impl Fn(&Comparison) -> f64) -> f64 {
        mean(&self.results.iter().map(of).collect::<Vec<_>>()).0
    }

    /// Divergence, and what else is shown.
    fn cells(&self) -> (String, String) {
        let (divergence, spread) = mean(&self.divergences());
        let perplexity = self.mean(|c| c.model.perplexity);
        let agreement = 100.0 * self.mean(|c| c.top1_agreement);
        let seconds = self.seconds;
        (
            format!("{divergence:.5} ± {spread:.5}"),
            format!("{perplexity:.4} | {agreement:.2} % | {seconds:.1}"),
        )
    }

    fn row(&self) -> String {
        let (divergence, rest) = self.cells();
        format!("{divergence} | {rest}")
    }

    /// The difference of the divergences, trial by trial: what the trials have in common cancels.
    fn minus(&self, other: &Found) -> (f64, f64) {
        let (own, others) = (self.divergences(), other.divergences());
        mean(
            &own.iter()
                .zip(others)
                .map(|(a, b)| a - b)
                .collect::<Vec<_>>(),
        )
    }

    /// `made` with what was found.
    fn json(&self, mut made: Value) -> Value {
        let (divergence, spread) = mean(&self.divergences());
        for (field, value) in [
            ("kl_divergence", divergence),
            ("kl_divergence_deviation", spread),
            ("perplexity", self.mean(|c| c.model.perplexity)),
            (
                "reference_perplexity",
                self.mean(|c| c.reference.perplexity),
            ),
            ("top1_agreement", self.mean(|c| c.top1_agreement)),
            ("seconds", self.seconds),
        ] {
            made[field] = json!(value);
        }
        made
    }
}

/// Mean and standard deviation.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>();
    (mean, (square / (n - 1.0).max(1.0)).sqrt())
}

/// A folder that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("treillage-quality-{}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed from a temporary folder, the system will remove.
        let _ = fs::remove_dir_all(&self.0);
    }
}
