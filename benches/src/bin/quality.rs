//! How far quantized models are from their original, per recipe and rate, on text that calibration did not see.
//!
//! Signs are random, so each figure is the mean over several seeds, with the spread between them beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::json;
use treillage_benches::artifact::Artifact;
use treillage_checkpoint::Checkpoint;
use treillage_cpu::CpuBackend;
use treillage_model::{
    Model,
    evaluate::{Comparison, Windows, compare},
    text::Tokenizer,
};
use treillage_quantize::{CalibrationTokens, HeadBits, Options, Recipe, quantize};

/// Quantizes a model by several recipes and compares each result with the original
#[derive(Parser)]
struct Args {
    /// The checkpoint to quantize
    #[arg(long, default_value = "fixtures/micro-qwen3_moe")]
    model: PathBuf,
    /// Calibration text
    #[arg(long, default_value = "fixtures/text/calib.txt")]
    calib: Vec<PathBuf>,
    /// Evaluation text
    #[arg(long, default_value = "fixtures/text/eval.txt")]
    text: PathBuf,
    /// Bits per weight
    #[arg(long, value_delimiter = ',', default_value = "4,3,2")]
    bpw: Vec<f64>,
    /// Bits of the head; 16 keeps it
    #[arg(long, default_value_t = 6)]
    head_bits: u8,
    /// `treillage`, `original`, or the fields of a recipe that differ from `treillage`'s, as JSON; may be repeated
    #[arg(long = "recipe", default_values = ["original", "treillage"])]
    recipes: Vec<String>,
    /// Seeds to average over
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Calibration rows
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

fn main() -> Result<()> {
    let args = Args::parse();
    let recipes = args
        .recipes
        .iter()
        .map(|name| Ok((name.as_str(), parse_recipe(name)?)))
        .collect::<Result<Vec<_>>>()?;
    let backend = CpuBackend::default();
    let tokenizer = Tokenizer::open(&args.model)?;
    let (rows, cols) = (args.calib_rows, args.calib_cols);
    let calibration = CalibrationTokens::read(&tokenizer, &args.calib, rows, cols)?;
    let text = fs::read_to_string(&args.text).with_context(|| args.text.display().to_string())?;
    let evaluation = Evaluation {
        reference: load(&backend, &args.model)?,
        backend: &backend,
        tokens: tokenizer.encode(&text)?,
        windows: Windows {
            length: args.context,
            limit: args.windows,
        },
    };
    let mut artifact = Artifact::new(
        "quality",
        json!({
            "model": args.model,
            "calibration": [calibration.rows().len(), cols],
            "head_bits": args.head_bits,
            "seeds": args.seeds,
            "context": args.context,
            "windows": args.windows,
        }),
    );

    println!("| bpw | recipe | KL divergence, nats/token | perplexity | same top token | s |");
    println!("|---|---|---|---|---|---|");
    for &bits_per_weight in &args.bpw {
        for (name, recipe) in &recipes {
            let started = Instant::now();
            let mut found = Vec::new();
            for seed in 0..args.seeds {
                let options = Options {
                    bits_per_weight,
                    head_bits: HeadBits::try_from(args.head_bits)?,
                    seed,
                    recipe: recipe.clone(),
                    ..Options::default()
                };
                let out = Scratch::new()?;
                let source = &args.model;
                quantize(
                    &backend,
                    source,
                    &out.0,
                    &calibration,
                    &options,
                    &mut |_| (),
                )?;
                found.push(evaluation.of(&out.0)?);
            }
            let seconds = started.elapsed().as_secs_f64() / args.seeds as f64;
            let (divergence, spread) = mean(&found, |c| c.kl_divergence);
            let (perplexity, _) = mean(&found, |c| c.model.perplexity);
            let (agreement, _) = mean(&found, |c| c.top1_agreement);
            let agreement_percent = 100.0 * agreement;
            println!(
                "| {bits_per_weight} | {name} | {divergence:.5} ± {spread:.5} | {perplexity:.4} | {agreement_percent:.2} % | {seconds:.1} |"
            );
            artifact.push(json!({
                "bits_per_weight": bits_per_weight,
                "recipe": recipe,
                "kl_divergence": divergence,
                "kl_divergence_deviation": spread,
                "perplexity": perplexity,
                "reference_perplexity": found[0].reference.perplexity,
                "top1_agreement": agreement,
                "seconds": seconds,
            }));
        }
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

/// What every result is judged by.
struct Evaluation<'a> {
    backend: &'a CpuBackend,
    reference: Model<CpuBackend>,
    tokens: Vec<u32>,
    windows: Windows,
}

impl Evaluation<'_> {
    fn of(&self, quantized: &Path) -> Result<Comparison> {
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

/// Mean and standard deviation.
fn mean(found: &[Comparison], of: impl Fn(&Comparison) -> f64) -> (f64, f64) {
    let n = found.len() as f64;
    let mean = found.iter().map(&of).sum::<f64>() / n;
    let square = found.iter().map(|c| (of(c) - mean).powi(2)).sum::<f64>();
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
