//! Quantizing a model several times and judging each result by the original's predictions.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use treillage_checkpoint::Checkpoint;
use treillage_cpu::CpuBackend;
use treillage_model::{
    Model,
    evaluate::{Comparison, Windows, compare},
    text::Tokenizer,
};
use treillage_quantize::{CalibrationTokens, Options, quantize};

/// Texts and lengths, as programs are asked for them.
#[derive(clap::Args)]
pub struct Setting {
    /// Calibration text
    #[arg(long, default_value = "fixtures/text/calib.txt")]
    pub calib: Vec<PathBuf>,
    /// Evaluation text
    #[arg(long, default_value = "fixtures/text/eval.txt")]
    pub text: PathBuf,
    /// Calibration rows, of all parts together
    #[arg(long, default_value_t = CalibrationTokens::ROWS)]
    pub calib_rows: usize,
    /// Tokens of a calibration row
    #[arg(long, default_value_t = CalibrationTokens::COLS)]
    pub calib_cols: usize,
    /// Evaluation windows; all that the text fills unless given
    #[arg(long)]
    pub windows: Option<usize>,
    /// Tokens of an evaluation window
    #[arg(long, default_value_t = 512)]
    pub context: usize,
}

impl Setting {
    /// What is evaluated of the text.
    pub fn windows(&self) -> Windows {
        Windows {
            length: self.context,
            limit: self.windows,
        }
    }

    /// The calibration rows, from the beginning of the text.
    ///
    /// # Errors
    /// If it cannot be read or is too short.
    pub fn calibration(&self, tokenizer: &Tokenizer) -> Result<CalibrationTokens> {
        let (rows, cols) = (self.calib_rows, self.calib_cols);
        Ok(CalibrationTokens::read(tokenizer, &self.calib, rows, cols)?)
    }
}

/// The model in `dir`.
fn load(backend: &CpuBackend, dir: &Path) -> Result<Model<CpuBackend>> {
    let checkpoint = Checkpoint::open(dir)?;
    Ok(Model::load(backend, &checkpoint, checkpoint.config())?)
}

/// What every result is made from and judged by.
pub struct Trials<'a> {
    backend: CpuBackend,
    source: &'a Path,
    reference: Model<CpuBackend>,
    /// The model's.
    pub tokenizer: Tokenizer,
    tokens: Vec<u32>,
    windows: Windows,
}

impl<'a> Trials<'a> {
    /// Of the checkpoint `source`, judged on the windows of `text`.
    ///
    /// # Errors
    /// If one of them cannot be read.
    pub fn new(source: &'a Path, text: &Path, windows: Windows) -> Result<Self> {
        let backend = CpuBackend::default();
        let tokenizer = Tokenizer::open(source)?;
        let text = fs::read_to_string(text).with_context(|| text.display().to_string())?;
        Ok(Self {
            reference: load(&backend, source)?,
            backend,
            source,
            tokens: tokenizer.encode(&text)?,
            tokenizer,
            windows,
        })
    }

    /// Quantizes and judges, trial by trial.
    ///
    /// # Errors
    /// Those of quantization and of the file system.
    pub fn found<'t>(
        &self,
        trials: impl Iterator<Item = (Options, &'t CalibrationTokens)>,
    ) -> Result<Found> {
        let started = Instant::now();
        let (mut results, mut bytes) = (Vec::new(), 0);
        for (options, calibration) in trials {
            let out = Scratch::new()?;
            let (backend, source) = (&self.backend, self.source);
            quantize(backend, source, &out.0, calibration, &options, &mut |_| ())?;
            bytes = bytes.max(weight_bytes(&out.0)?);
            results.push(self.judged(&out.0)?);
        }
        let seconds = started.elapsed().as_secs_f64() / results.len() as f64;
        Ok(Found {
            results,
            seconds,
            bytes,
        })
    }

    fn judged(&self, quantized: &Path) -> Result<Comparison> {
        let model = load(&self.backend, quantized)?;
        let mut session = model.session(&self.backend, self.windows.length)?;
        let mut reference = self.reference.session(&self.backend, self.windows.length)?;
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

/// Results of trials that differ by chance alone.
pub struct Found {
    results: Vec<Comparison>,
    /// To quantize and to judge, a trial.
    seconds: f64,
    /// Of tensors, in the largest result.
    pub bytes: u64,
}

impl Found {
    /// Of each trial, in nats per token.
    pub fn divergences(&self) -> Vec<f64> {
        self.results.iter().map(|c| c.kl_divergence).collect()
    }

    /// Of what `of` gives of each trial.
    pub fn mean(&self, of: impl Fn(&Comparison) -> f64) -> f64 {
        mean(&self.results.iter().map(of).collect::<Vec<_>>()).0
    }

    /// Divergence, and what else is shown.
    pub fn cells(&self) -> (String, String) {
        let (divergence, spread) = mean(&self.divergences());
        let perplexity = self.mean(|c| c.model.perplexity);
        let agreement = 100.0 * self.mean(|c| c.top1_agreement);
        let seconds = self.seconds;
        (
            format!("{divergence:.5} ± {spread:.5}"),
            format!("{perplexity:.4} | {agreement:.2} % | {seconds:.1}"),
        )
    }

    /// The difference of the divergences, trial by trial: what the trials have in common cancels.
    pub fn minus(&self, other: &Found) -> (f64, f64) {
        let (own, others) = (self.divergences(), other.divergences());
        mean(
            &own.iter()
                .zip(others)
                .map(|(a, b)| a - b)
                .collect::<Vec<_>>(),
        )
    }

    /// `made` with what was found.
    pub fn json(&self, mut made: Value) -> Value {
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
            ("bytes", self.bytes as f64),
        ] {
            made[field] = json!(value);
        }
        made
    }
}

/// Mean and standard deviation.
pub fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>();
    (mean, (square / (n - 1.0).max(1.0)).sqrt())
}

/// Bytes of the tensors in `dir`.
fn weight_bytes(dir: &Path) -> Result<u64> {
    let checkpoint = Checkpoint::open(dir)?;
    let each = checkpoint
        .names()
        .map(|name| Ok(checkpoint.tensor(name)?.bytes().len() as u64));
    each.sum()
}

/// A folder that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("treillage-trial-{}", std::process::id()));
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
