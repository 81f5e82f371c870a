//! `treillage quantize`

mod methods;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Result;
use serde::Serialize;
use treillage_backend::Quantization;
use treillage_gptq::{ScaleRule, Solver};
use treillage_model::text::Tokenizer;
use treillage_quantize::{
    CalibrationTokens, Event, GptqOptions, LinearSummary, Method, Options, Summary, quantize,
};
use treillage_telemetry::Stages;

use self::methods::MethodArgs;
use crate::{
    fixtures, names, output,
    progress::Quantizing,
    runtime::{self, DeviceArgs, Runner},
    stats::StatsArgs,
    table::{self, Table},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the source: a Hugging Face checkpoint in 16 or 32 bits, or FP8
    source: PathBuf,
    /// Folder to write to: new, empty, or that of a run that was interrupted and goes on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    method: MethodArgs,
    /// Text files to calibrate with; by default, the repository's own
    #[arg(long, value_name = "FILE", num_args = 1..)]
    calib: Vec<PathBuf>,
    /// Rows of calibration text
    #[arg(long, value_name = "N", default_value_t = CalibrationTokens::ROWS)]
    calib_rows: usize,
    /// Tokens of a row
    #[arg(long, value_name = "N", default_value_t = CalibrationTokens::COLS)]
    calib_cols: usize,
    /// Seed of whatever is random, the signs of trellis-coded linears
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Most memory to take, of the host's and of the device's each, in GiB: where what is gathered of all experts of a block does
    /// not fit, the calibration text goes through it several times. What that makes is the same [default: as much as it takes]
    #[arg(long, value_name = "GIB", value_parser = memory)]
    memory: Option<u64>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    stats: StatsArgs,
}

/// GiB to bytes.
fn memory(text: &str) -> Result<u64, String> {
    let gib = text.parse::<f64>().ok().filter(|gib| *gib > 0.0);
    let bytes = gib.map(|gib| gib * f64::from(1 << 30));
    let bytes = bytes.filter(|bytes| *bytes < u64::MAX as f64);
    bytes.map_or_else(
        || Err("expected a number of GiB".to_owned()),
        |b| Ok(b as u64),
    )
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let options = Options {
        memory: args.memory,
        ..args.method.options(args.seed)?
    };
    let tokenizer = Tokenizer::open(&args.source)?;
    let calib = if args.calib.is_empty() {
        vec![fixtures::checkout()?.join("fixtures/text/calib.txt")]
    } else {
        args.calib.clone()
    };
    let tokens = CalibrationTokens::read(&tokenizer, &calib, args.calib_rows, args.calib_cols)?;
    let (source, out, stages) = (&args.source, &args.out, args.stats.stages());
    let progress = Quantizing::new(!json, "quantize".to_owned());
    let report = match args.device.quantizer()? {
        Runner::Cpu(on) => quantize_to(&*on, source, out, &tokens, &options, progress, stages),
        Runner::Gpu(on) => quantize_to(&*on, source, out, &tokens, &options, progress, stages),
    };
    args.stats.tell(None)?;
    output::print(&report?, json)
}

/// Quantizes `source` into `out`.
pub(crate) fn quantize_to<B: Quantization>(
    backend: &B,
    source: &Path,
    out: &Path,
    tokens: &CalibrationTokens,
    options: &Options,
    mut progress: Quantizing,
    stages: &Stages,
) -> Result<Report> {
    let start = Instant::now();
    let summary = quantize(backend, source, out, tokens, options, &mut |event| {
        if let Event::Took { stage, time } = event {
            stages.record(stage.name(), time);
        }
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
        let mut columns = vec!["linears", "number", "bits", "error, mean", "error, worst"];
        let gptq = match &summary.options.method {
            Method::Trellis(_) => None,
            Method::MrGptq(options) => Some(options),
        };
        if gptq.is_some() {
            columns.push("rotated by");
        }
        let mut table = Table::new(&columns);
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
                rotations(linears),
            ]);
        }
        writeln!(f, "{table}")?;
        self.write_experts(f)?;
        self.write_oddities(f)?;
        if let Some(options) = gptq {
            writeln!(f, "{}", coding(options))?;
        }
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
        Ok(())
    }

    /// Names the linears that were not encoded as they should have been.
    fn write_oddities(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let linears = &self.summary.linears;
        for linear in linears {
            let prefix = &linear.prefix;
            if let Some(reason) = &linear.fallback {
                writeln!(f, "{prefix}: encoded without feedback: {reason}")?;
            } else if let Some(attempts @ 2..) = linear.attempts {
                let damping = linear.damping;
                writeln!(
                    f,
                    "{prefix}: its Hessian took {attempts} attempts and {damping:.2e} of damping"
                )?;
            }
        }
        let dead: usize = linears.iter().filter_map(|l| l.dead_inputs).sum();
        if dead > 0 {
            let among = linears.iter().filter(|l| l.dead_inputs > Some(0)).count();
            writeln!(
                f,
                "{dead} inputs of {among} linears were never active: their weights became zero"
            )?;
        }
        Ok(())
    }
}

/// `32`, or `32×3 none×1` where linears differ.
fn rotations(linears: &[&LinearSummary]) -> String {
    let groups = names::grouped_by(linears.iter().copied(), |linear| linear.rotation);
    let name = |rotation: &Option<usize>| match rotation {
        Some(block) => block.to_string(),
        None => "none".to_owned(),
    };
    match &groups[..] {
        [(rotation, _)] => name(rotation),
        groups => {
            let each =
                |(rotation, linears): &(_, Vec<_>)| format!("{}×{}", name(rotation), linears.len());
            groups.iter().map(each).collect::<Vec<_>>().join(" ")
        }
    }
}

/// What was done to every linear, in a line.
fn coding(options: &GptqOptions) -> String {
    let solver = match (options.solver, options.act_order) {
        (Solver::Rtn, _) => "rounded to nearest",
        (Solver::Gptq, true) => "GPTQ in activation order",
        (Solver::Gptq, false) => "GPTQ",
    };
    let scales = match options.scales {
        ScaleRule::Mse => "scales of least error",
        ScaleRule::Minmax => "scales of the largest weight",
    };
    format!(
        "{} in groups of {}, {solver}, {scales}; {} files",
        options.format, options.group, options.export
    )
}
