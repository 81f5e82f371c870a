//! `treillage eval`

use std::{
    fmt, fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use serde::Serialize;
use treillage_model::{
    evaluate::{self, Deviation, Perplexity, Windows},
    text::Tokenizer,
};
use treillage_telemetry::Counts;

use crate::{
    output,
    progress::Evaluating,
    runtime::{LoadedModel, Runner, Runs, RuntimeArgs},
    table::{Table, grouped},
};

/// Tokens over which the int8 path is compared with the exact one: short, as they are read one by one.
const DEVIATION_TOKENS: usize = 64;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the checkpoint
    dir: PathBuf,
    /// Text to predict
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Folder of a checkpoint to compare with, usually the original
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Most windows to look at; by default, all that the text fills
    #[arg(long, value_name = "N")]
    windows: Option<NonZeroUsize>,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 512)]
    context: usize,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let tokenizer = Tokenizer::open(&args.dir)?;
    let text = fs::read_to_string(&args.text)
        .with_context(|| format!("cannot read {}", args.text.display()))?;
    let tokens = tokenizer.encode(&text)?;
    let windows = Windows {
        length: args.context,
        limit: args.windows.map(NonZeroUsize::get),
    };
    let (dir, reference) = (&args.dir, args.reference.as_deref());
    let progress = Evaluating::new(!json, "eval".to_owned());
    let stages = args.runtime.stages();
    let report = match args.runtime.runner()? {
        Runner::Cpu(on) => {
            let stage = stages.start("evaluate");
            let report = evaluate(&*on, dir, reference, &tokens, windows, progress);
            drop(stage);
            args.runtime.end(&*on, report)?
        }
        Runner::Gpu(on) => {
            let stage = stages.start("evaluate");
            let report = evaluate(&*on, dir, reference, &tokens, windows, progress);
            drop(stage);
            args.runtime.end(&*on, report)?
        }
    };
    output::print(&report, json)
}

/// Evaluates the checkpoint in `dir`, against the one in `reference` if there is one.
pub(crate) fn evaluate<B: Runs>(
    backend: &B,
    dir: &Path,
    reference: Option<&Path>,
    tokens: &[u32],
    windows: Windows,
    mut progress: Evaluating,
) -> Result<Report> {
    let loaded = LoadedModel::open(backend, dir)?;
    let mut session = loaded.model.session(backend, windows.length)?;
    let start = Instant::now();
    let mut show = |step| progress.show(step);
    let (perplexity, comparison) = match reference {
        None => {
            let found = evaluate::perplexity(&mut session, tokens, windows, &mut show)?;
            (found, None)
        }
        Some(dir) => {
            // The reference is what is true: it is never computed with less precision than it has.
            let exact = backend.exact()?;
            let reference = LoadedModel::open(&exact, dir)?;
            let mut original = reference.model.session(&exact, windows.length)?;
            let found = evaluate::compare(&mut session, &mut original, tokens, windows, &mut show)?;
            let against = Against {
                reference: dir.to_owned(),
                reference_perplexity: found.reference.perplexity,
                kl_divergence: found.kl_divergence,
                top1_agreement: found.top1_agreement,
            };
            (found.model, Some(against))
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    Ok(Report {
        model: dir.to_owned(),
        context: windows.length,
        perplexity,
        seconds,
        against: comparison,
        int8: int8_deviation(backend, &loaded, dir, tokens)?,
        telemetry: backend.counts(),
    })
}

/// How far the int8 path is from the exact one, token by token as in generation; `None` where it is not in use.
fn int8_deviation<B: Runs>(
    backend: &B,
    loaded: &LoadedModel<B>,
    dir: &Path,
    tokens: &[u32],
) -> Result<Option<Deviation>> {
    if !loaded.uses_int8(backend) {
        return Ok(None);
    }
    let tokens = &tokens[..tokens.len().min(DEVIATION_TOKENS)];
    let exact = backend.exact()?;
    let reference = LoadedModel::open(&exact, dir)?;
    let deviation = evaluate::deviation(
        &mut loaded.model.session(backend, tokens.len())?,
        &mut reference.model.session(&exact, tokens.len())?,
        tokens,
    )?;
    Ok(Some(deviation))
}

/// How good a model is.
#[derive(Serialize)]
pub(crate) struct Report {
    model: PathBuf,
    context: usize,
    #[serde(flatten)]
    pub(crate) perplexity: Perplexity,
    #[serde(flatten)]
    pub(crate) against: Option<Against>,
    /// Error of the int8 path.
    pub(crate) int8: Option<Deviation>,
    pub(crate) seconds: f64,
    /// What the backend counted.
    telemetry: Counts,
}

/// How far a model is from its reference.
#[derive(Serialize)]
pub(crate) struct Against {
    reference: PathBuf,
    reference_perplexity: f64,
    /// Nats per token.
    pub(crate) kl_divergence: f64,
    pub(crate) top1_agreement: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["", "model", "reference"]);
        let found = &self.perplexity;
        let or_none = |value: Option<String>| value.unwrap_or_default();
        let against = self.against.as_ref();
        table.row([
            "perplexity".to_owned(),
            format!("{:.4}", found.perplexity),
            or_none(against.map(|a| format!("{:.4}", a.reference_perplexity))),
        ]);
        if let Some(against) = against {
            let divergence = format!("{:.5}", against.kl_divergence);
            table.row(["KL divergence, nats per token".to_owned(), divergence]);
            let agreement = format!("{:.2} %", 100.0 * against.top1_agreement);
            table.row(["same most probable token".to_owned(), agreement]);
        }
        if let Some(int8) = &self.int8 {
            let rms = format!("{:.3} %", 100.0 * int8.relative_rms);
            table.row(["int8 path, error of the logits".to_owned(), rms]);
            let divergence = format!("{:.6}", int8.kl_divergence);
            table.row(["int8 path, KL divergence".to_owned(), divergence]);
        }
        writeln!(f, "{table}")?;
        write!(
            f,
            "{} tokens scored in {} windows of {}, {:.1} s",
            grouped(found.scored as u64),
            found.windows,
            self.context,
            self.seconds
        )?;
        if let Some(int8) = &self.int8 {
            write!(
                f,
                "; int8 path against the exact one over {} tokens",
                int8.tokens
            )?;
        }
        Ok(())
    }
}
