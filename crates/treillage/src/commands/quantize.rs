//! `treillage quantize`

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use treillage_model::text::Tokenizer;
use treillage_quantize::{
    CalibrationTokens, HeadBits, LinearSummary, Options, Recipe, Summary, quantize,
};
use treillage_trellis::{Codebook, OutScales};

use crate::{
    fixtures, names, output,
    progress::Quantizing,
    runtime::{self, Arithmetic, Backend, DeviceArgs},
    table::{self, Table},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the source: a Hugging Face checkpoint in 16 or 32 bits, or FP8
    source: PathBuf,
    /// Folder to write to: new, empty, or that of a run that was interrupted and goes on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How weights are coded
    #[arg(long, value_enum, default_value_t = Method::Trellis)]
    method: Method,
    /// Bits per weight, 1 to 8, averaged over the linears of all blocks
    #[arg(
        long,
        value_name = "B",
        default_value_t = 3.0,
        allow_negative_numbers = true
    )]
    bpw: f64,
    /// Bits of the head, 1 to 8, or 16 to keep it as it is
    #[arg(long, value_name = "B", default_value_t = HeadBits::default().into())]
    head_bits: u8,
    /// From trellis states to weights: mul1, mcg or 3inst
    #[arg(long, default_value_t)]
    codebook: Codebook,
    /// Whether output channels get scales of their own
    #[arg(long, value_enum, default_value_t = ScaleChoice::Always)]
    out_scales: ScaleChoice,
    /// How errors are measured: our way, or ExLlamaV3's, to compare with
    #[arg(long, value_enum, default_value_t = RecipeChoice::Treillage)]
    recipe: RecipeChoice,
    /// Text files to calibrate with; by default, the repository's own
    #[arg(long, value_name = "FILE", num_args = 1..)]
    calib: Vec<PathBuf>,
    /// Rows of calibration text
    #[arg(long, value_name = "N", default_value_t = CalibrationTokens::ROWS)]
    calib_rows: usize,
    /// Tokens of a row
    #[arg(long, value_name = "N", default_value_t = CalibrationTokens::COLS)]
    calib_cols: usize,
    /// Seed of the random signs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Method {
    /// EXL3 trellis codes
    Trellis,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScaleChoice {
    Always,
    Never,
    Auto,
}

#[derive(Clone, Copy, ValueEnum)]
enum RecipeChoice {
    Treillage,
    Original,
}

impl Args {
    fn options(&self) -> Result<Options> {
        let Method::Trellis = self.method;
        Ok(Options {
            bits_per_weight: self.bpw,
            head_bits: HeadBits::try_from(self.head_bits)?,
            codebook: self.codebook,
            out_scales: match self.out_scales {
                ScaleChoice::Always => OutScales::Always,
                ScaleChoice::Never => OutScales::Never,
                ScaleChoice::Auto => OutScales::Auto,
            },
            seed: self.seed,
            recipe: match self.recipe {
                RecipeChoice::Treillage => Recipe::treillage(),
                RecipeChoice::Original => Recipe::original(),
            },
        })
    }
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let options = args.options()?;
    let tokenizer = Tokenizer::open(&args.source)?;
    let calib = if args.calib.is_empty() {
        vec![fixtures::checkout()?.join("fixtures/text/calib.txt")]
    } else {
        args.calib.clone()
    };
    let tokens = CalibrationTokens::read(&tokenizer, &calib, args.calib_rows, args.calib_cols)?;
    let backend = args.device.backend(Arithmetic::Exact)?;
    let report = quantize_to(
        &backend,
        &args.source,
        &args.out,
        &tokens,
        &options,
        Quantizing::new(!json, "quantize".to_owned()),
    )?;
    output::print(&report, json)
}

/// Quantizes `source` into `out`.
pub(crate) fn quantize_to(
    backend: &Backend,
    source: &Path,
    out: &Path,
    tokens: &CalibrationTokens,
    options: &Options,
    mut progress: Quantizing,
) -> Result<Report> {
    let start = Instant::now();
    let summary = quantize(backend, source, out, tokens, options, &mut |event| {
        progress.show(&event);
    })?;
    Ok(Report {
        out: out.to_owned(),
        seconds: start.elapsed().as_secs_f64(),
        source_bytes: runtime::weight_bytes(source)?,
        bytes: runtime::weight_bytes(out)?,
        summary,
    })
}

/// What a quantization did.
#[derive(Serialize)]
pub(crate) struct Report {
    out: PathBuf,
    pub(crate) seconds: f64,
    source_bytes: u64,
    pub(crate) bytes: u64,
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

/// Experts that are named one by one; of more, the number says enough.
const NAMED: usize = 12;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = &self.summary;
        let roles = names::grouped_by(&summary.linears, |linear| names::role(&linear.prefix));
        let mut table = Table::new(&["linears", "number", "bits", "error, mean", "error, worst"]);
        for (role, linears) in &roles {
            let count = linears.len() as f64;
            let mean = |value: &dyn Fn(&LinearSummary) -> f64| {
                linears.iter().map(|linear| value(linear)).sum::<f64>() / count
            };
            let worst = linears.iter().map(|l| l.relative_error).fold(0.0, f64::max);
            table.row([
                role.clone(),
                linears.len().to_string(),
                format!("{:.2}", mean(&|l| l.bits as f64)),
                format!("{:.5}", mean(&|l| l.relative_error)),
                format!("{worst:.5}"),
            ]);
        }
        writeln!(f, "{table}")?;
        self.write_experts(f)?;
        writeln!(
            f,
            "{:.2} bits per weight in the blocks; {} became {}; {} calibration rows of {} tokens; {:.1} s",
            summary.bits_per_weight,
            table::bytes(self.source_bytes),
            table::bytes(self.bytes),
            summary.rows,
            summary.cols,
            self.seconds
        )?;
        write!(f, "{}", self.out.display())
    }
}

impl Report {
    /// Names the linears that calibration says little about.
    fn write_experts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = &self.summary;
        if summary.rows < summary.requested_rows {
            writeln!(
                f,
                "the calibration text has {} rows, {} were asked for",
                summary.rows, summary.requested_rows
            )?;
        }
        let starved: Vec<_> = summary.starved_experts().collect();
        for linear in starved.iter().take(NAMED) {
            writeln!(
                f,
                "{}: {} tokens reached it; {:.0} % of its Hessian is the layer's",
                linear.prefix,
                linear.tokens,
                100.0 * linear.shrinkage.unwrap_or(0.0)
            )?;
        }
        if starved.len() > NAMED {
            writeln!(f, "and {} more like these", starved.len() - NAMED)?;
        }
        for linear in &summary.linears {
            if let Some(reason) = &linear.fallback {
                writeln!(
                    f,
                    "{}: encoded without calibration: {reason}",
                    linear.prefix
                )?;
            }
        }
        Ok(())
    }
}
