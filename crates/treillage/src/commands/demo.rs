//! `treillage demo`

use std::{
    fmt::{self, Write},
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use serde::Serialize;
use treillage_cpu::CpuBackend;
use treillage_model::{
    GenerateOptions, SamplingOptions,
    evaluate::Windows,
    generate,
    text::{SpecialTokens, Tokenizer},
};
use treillage_quantize::{CalibrationTokens, Options, TrellisOptions};
use treillage_telemetry::Stages;

use crate::{
    commands::{eval, quantize},
    fixtures, output,
    progress::{Evaluating, Quantizing},
    runtime::{self, Arithmetic, DeviceArgs, LoadedModel},
    table::{self, Table},
};

/// Bits per weight that are tried.
const RATES: [u8; 3] = [4, 3, 2];
/// What every model continues.
const PROMPT: &str = "The Rust programming language is";
/// By how much.
const TOKENS: usize = 32;
/// Rows of calibration text: a quarter of what `quantize` takes, so that all rates fit into a minute.
const CALIBRATION_ROWS: usize = 64;
/// What is evaluated: enough for three figures.
const WINDOWS: Windows = Windows {
    length: 512,
    limit: Some(32),
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder to write to; by default, a fresh target/demo
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let start = Instant::now();
    let checkout = fixtures::checkout()?;
    let source = checkout.join("fixtures/micro-qwen3_moe");
    let out = match &args.out {
        Some(out) => out.clone(),
        None => fresh(checkout.join("target/demo"))?,
    };
    let backend = args.device.cpu(Arithmetic::Int8)?;
    let demo = Demo {
        backend,
        tokenizer: Tokenizer::open(&source)?,
        calib: checkout.join("fixtures/text/calib.txt"),
        text: checkout.join("fixtures/text/eval.txt"),
        source,
        visible: !json,
    };
    let mut rows = vec![demo.original()?];
    for bits in RATES {
        rows.push(demo.quantized(bits, &out.join(format!("{bits}bpw")))?);
    }
    let report = Report {
        prompt: PROMPT,
        rows,
        seconds: start.elapsed().as_secs_f64(),
        out: out.clone(),
    };
    write(&out.join("report.md"), &report.markdown())?;
    write(
        &out.join("report.json"),
        &serde_json::to_string_pretty(&report)?,
    )?;
    output::print(&report, json)
}

/// Makes an empty folder of one that earlier runs may have filled.
fn fresh(dir: PathBuf) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    Ok(dir)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What every row of the table is made with.
struct Demo {
    backend: CpuBackend,
    tokenizer: Tokenizer,
    source: PathBuf,
    calib: PathBuf,
    text: PathBuf,
    visible: bool,
}

impl Demo {
    fn original(&self) -> Result<Row> {
        let eval = self.evaluate("original", &self.source, None)?;
        Ok(Row {
            model: "original, bf16".to_owned(),
            bits_per_weight: 16.0,
            head_bits: 16,
            bytes: runtime::weight_bytes(&self.source)?,
            quantize_seconds: None,
            continuation: self.continuation(&self.source)?,
            eval,
        })
    }

    fn quantized(&self, bits: u8, out: &Path) -> Result<Row> {
        let trellis = TrellisOptions {
            bits_per_weight: f64::from(bits),
            ..TrellisOptions::default()
        };
        let head_bits = trellis.head_bits.into();
        let tokens = CalibrationTokens::read(
            &self.tokenizer,
            &[&self.calib],
            CALIBRATION_ROWS,
            CalibrationTokens::COLS,
        )?;
        let label = format!("{bits} bpw");
        let report = quantize::quantize_to(
            &self.backend,
            &self.source,
            out,
            &tokens,
            &Options::trellis(trellis),
            Quantizing::new(self.visible, format!("{label}, quantize")),
            &Stages::default(),
        )?;
        Ok(Row {
            model: label.clone(),
            bits_per_weight: report.summary.bits_per_weight,
            head_bits,
            bytes: report.bytes,
            quantize_seconds: Some(report.seconds),
            continuation: self.continuation(out)?,
            eval: self.evaluate(&label, out, Some(&self.source))?,
        })
    }

    fn evaluate(&self, label: &str, dir: &Path, reference: Option<&Path>) -> Result<eval::Report> {
        let text = fs::read_to_string(&self.text)
            .with_context(|| format!("cannot read {}", self.text.display()))?;
        let tokens = self.tokenizer.encode(&text)?;
        let progress = Evaluating::new(self.visible, format!("{label}, evaluate"));
        eval::evaluate(&self.backend, dir, reference, &tokens, WINDOWS, progress)
    }

    fn continuation(&self, dir: &Path) -> Result<String> {
        let loaded = LoadedModel::open(&self.backend, dir)?;
        let prompt = self.tokenizer.encode(PROMPT)?;
        let mut session = loaded.model.session(&self.backend, prompt.len() + TOKENS)?;
        let options = GenerateOptions {
            max_tokens: TOKENS,
            sampling: SamplingOptions::default(),
            stop_ids: loaded.config().eos_token_ids.clone(),
            stop_strings: Vec::new(),
            special: SpecialTokens::Skip,
        };
        let mut emit = |_: &str| std::ops::ControlFlow::Continue(());
        let generated = generate(&mut session, &self.tokenizer, &prompt, &options, &mut emit)?;
        Ok(generated.text)
    }
}

/// All that the demonstration found.
#[derive(Serialize)]
struct Report {
    prompt: &'static str,
    rows: Vec<Row>,
    seconds: f64,
    out: PathBuf,
}

/// One model.
#[derive(Serialize)]
struct Row {
    model: String,
    bits_per_weight: f64,
    head_bits: u8,
    bytes: u64,
    quantize_seconds: Option<f64>,
    eval: eval::Report,
    continuation: String,
}

impl Report {
    fn table(&self) -> Table {
        let mut table = Table::new(&[
            "model",
            "bits",
            "head",
            "size",
            "quantize",
            "perplexity",
            "KL, nats",
            "top-1",
            "int8 error",
        ]);
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
        for row in &self.rows {
            let against = row.eval.against.as_ref();
            table.row([
                row.model.clone(),
                format!("{:.2}", row.bits_per_weight),
                row.head_bits.to_string(),
                table::bytes(row.bytes),
                or_dash(row.quantize_seconds.map(|s| format!("{s:.1} s"))),
                format!("{:.3}", row.eval.perplexity.perplexity),
                or_dash(against.map(|a| format!("{:.4}", a.kl_divergence))),
                or_dash(against.map(|a| format!("{:.1} %", 100.0 * a.top1_agreement))),
                or_dash(
                    row.eval
                        .int8
                        .map(|i| format!("{:.2} %", 100.0 * i.relative_rms)),
                ),
            ]);
        }
        table
    }

    fn explanation(&self) -> String {
        let scored = self.rows[0].eval.perplexity.scored;
        format!(
            "Bits: per weight, in the blocks and in the head; calibrated on {CALIBRATION_ROWS} rows of {} tokens. KL divergence and top-1 agreement are against the original, over {} tokens of text that calibration did not see. int8 error: of the logits, against exact arithmetic. {:.0} s in all.",
            CalibrationTokens::COLS,
            table::grouped(scored as u64),
            self.seconds
        )
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "# A demonstration\n\n{}\n{}\n",
            self.table().markdown(),
            self.explanation()
        );
        _ = write!(
            text,
            "\nContinuations of “{}”, most probable token each time:\n\n",
            self.prompt
        );
        for row in &self.rows {
            _ = writeln!(text, "- {}: “{}”", row.model, one_line(&row.continuation));
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n", self.table(), self.explanation())?;
        writeln!(f, "“{}” goes on", self.prompt)?;
        for row in &self.rows {
            writeln!(f, "  {:<16}{}", row.model, one_line(&row.continuation))?;
        }
        write!(
            f,
            "\nreport.md, report.json and the checkpoints: {}",
            self.out.display()
        )
    }
}

fn one_line(text: &str) -> String {
    text.trim().escape_debug().to_string()
}
