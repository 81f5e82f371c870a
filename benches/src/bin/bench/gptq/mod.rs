//! `gptq`: what does each stage of quantizing a linear cost, and how near do the formats come?
//!
//! Hessian: from activations to their mean second moment. Cholesky: rotating, ordering, damping and factorizing it. Quantize:
//! scales (by the largest magnitude), sweep, packed codes. With `--numpy` the same is done by the specification's reference, by
//! turns, on the same numbers; its Hessian stage rotates activations and weights, where ours rotates the Hessian later. On a GPU
//! weights and activations are in its memory and codes come back to the host's; bringing the former is timed by itself.

mod gpu;
mod reference;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result};
use half::bf16;
use nalgebra::DMatrix;
use serde_json::{Value, json};
use treillage_benches::{artifact::Artifact, random, timing::Timings};
use treillage_gptq::{
    Calibration, Config, Format, MxRule, Rotation, ScaleRule, Solver, quantize_linear,
};
use treillage_linalg::{Hessian, Parallelism, gemm};

use crate::device::Device;
use reference::Reference;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What quantizes: cpu, gpu, or gpu:N as `treillage devices` numbers them
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Time the GPU's kernels, in a run of their own
    #[arg(long)]
    profile: bool,
    /// Workloads; by default all
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// int4, nvfp4, mxfp4
    #[arg(long, value_delimiter = ',', default_values_t = ["int4".to_owned(), "nvfp4".to_owned(), "mxfp4".to_owned()])]
    formats: Vec<String>,
    /// Rotation of the FP4 formats; 0 is none
    #[arg(long, default_value_t = 128)]
    rotation: usize,
    #[arg(long, default_value_t = 2048)]
    tokens: usize,
    /// Threads; by default one for each core
    #[arg(long)]
    threads: Option<usize>,
    /// Measured runs, of which the median counts, after one that is not measured
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Compare with the numpy reference
    #[arg(long)]
    numpy: bool,
    /// A Python with numpy
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// mr_gptq_ref.py; by default that of the folder in TREILLAGE_SHARED
    #[arg(long)]
    reference: Option<PathBuf>,
}

/// A linear: `outputs` × `inputs`.
struct Workload {
    name: &'static str,
    outputs: usize,
    inputs: usize,
}

const WORKLOADS: [Workload; 6] = [
    workload("glm47_moe", 4096, 1024),
    workload("qwen3_coder_next", 6144, 1536),
    workload("glm47_flash_gate", 1536, 2048),
    workload("glm47_flash_down", 2048, 1536),
    workload("qwen3_next_gate", 512, 2048),
    workload("qwen3_next_down", 2048, 512),
];

const fn workload(name: &'static str, outputs: usize, inputs: usize) -> Workload {
    Workload {
        name,
        outputs,
        inputs,
    }
}

const STAGES: [&str; 4] = ["hessian_ms", "cholesky_ms", "quantize_ms", "total_ms"];

/// Milliseconds of each stage, run by run.
#[derive(Default)]
struct Stages([Vec<f64>; STAGES.len()]);

impl Stages {
    fn push(&mut self, run: [f64; STAGES.len()]) {
        for (all, one) in self.0.iter_mut().zip(run) {
            all.push(one);
        }
    }

    fn medians(&self) -> [f64; STAGES.len()] {
        self.0.each_ref().map(|runs| {
            let mut sorted = runs.clone();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        })
    }

    fn best(&self) -> [f64; STAGES.len()] {
        let least = |runs: &Vec<f64>| runs.iter().copied().fold(f64::INFINITY, f64::min);
        self.0.each_ref().map(least)
    }

    fn to_json(&self) -> Value {
        let named = |values: [f64; STAGES.len()]| -> Value {
            STAGES
                .into_iter()
                .zip(values)
                .map(|(stage, ms)| (stage.to_owned(), json!(ms)))
                .collect()
        };
        json!({ "median": named(self.medians()), "best": named(self.best()) })
    }
}

pub(crate) fn run(args: &Args) -> Result<Artifact> {
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    let pool = crate::pool(threads)?;
    let mut reference = None;
    if args.numpy {
        let script = args
            .reference
            .clone()
            .unwrap_or_else(Reference::default_script);
        reference = Some(Reference::start(&args.python, &script, threads)?);
    }
    let context = match args.device {
        Device::Cpu => None,
        Device::Gpu(index) => Some(gpu::open(index, args.profile)?),
    };
    let adapter = context.as_ref().map(|c| c.gpu().adapter().name());
    let mut artifact = Artifact::new(
        "gptq",
        json!({
            "adapter": adapter,
            "threads": threads,
            "tokens": args.tokens,
            "repeats": args.repeats,
            "rotation": args.rotation,
            "damping": 0.01,
            "act_order": true,
            "scales": "minmax",
            "numpy": reference.as_ref().map(|r| r.version.clone()),
        }),
    );
    for name in &args.workloads {
        if !WORKLOADS.iter().any(|workload| workload.name == name) {
            let names = WORKLOADS.map(|workload| workload.name).join(", ");
            anyhow::bail!("{name}: no such workload, there are {names}");
        }
    }
    let chosen = |name: &str| args.workloads.is_empty() || args.workloads.iter().any(|w| w == name);
    for workload in WORKLOADS.iter().filter(|workload| chosen(workload.name)) {
        pool.install(|| {
            measure(
                args,
                workload,
                context.as_ref(),
                reference.as_mut(),
                &mut artifact,
            )
        })?;
    }
    Ok(artifact)
}

fn measure(
    args: &Args,
    workload: &Workload,
    context: Option<&treillage_gpu::Context>,
    mut reference: Option<&mut Reference>,
    artifact: &mut Artifact,
) -> Result<()> {
    let &Workload {
        name,
        outputs,
        inputs,
    } = workload;
    let [weights, x] = match reference.as_deref_mut() {
        Some(reference) => reference.inputs(outputs, inputs, args.tokens)?,
        None => {
            let mut rng = random::rng(20_260_207);
            [outputs, args.tokens].map(|rows| random::normal(&mut rng, rows * inputs))
        }
    };
    // Rows of shape [out, in] are columns of shape (in, out).
    let weights = DMatrix::from_vec(inputs, outputs, weights);
    let (gemm_rate, numpy_rate) = gemm_rates(reference.as_deref_mut())?;
    println!(
        "\n{name}: {outputs} x {inputs}, {} tokens; f32 GEMM {gemm_rate:.0} GFLOP/s{}",
        args.tokens,
        numpy_rate.map_or(String::new(), |rate| format!(", numpy's {rate:.0}"))
    );
    let bf16_rate = bf16_rate(args, inputs, &x)?;
    println!("Hessian from bf16 activations: {bf16_rate:.0} GFLOP/s");
    let subject = context
        .map(|context| gpu::Subject::new(context, &weights, &x))
        .transpose()?;
    if let Some(subject) = &subject {
        println!("to the device in {:.2} ms", subject.upload_ms);
    }
    println!("format  rotation            hessian  cholesky  quantize     total  ms, median");
    for format in &args.formats {
        let config = config(format, args.rotation)?;
        let (ours, theirs) = time(args, &config, reference.as_deref_mut(), || match &subject {
            Some(subject) => subject.run(&config),
            None => on_cpu(&weights, &x, &config),
        })?;
        let rotation = block(config.rotation);
        println!("{format:<6}  {rotation:>8}  ours   {}", row(ours.medians()));
        if let Some(theirs) = &theirs {
            println!("{:<16}  numpy  {}", "", row(theirs.medians()));
            println!("{:<16}  ratio  {}", "", row(ratios(&ours, theirs)));
        }
        let syrk = args.tokens as f64 * (inputs * inputs) as f64 / 1e6;
        let rate = syrk / ours.medians()[0];
        let share = match subject {
            Some(_) => String::new(),
            None => {
                let most = numpy_rate.unwrap_or(0.0).max(gemm_rate);
                format!(", {:.0} % of GEMM's", 100.0 * rate / most)
            }
        };
        println!("{:<16}  Hessian at {rate:.0} GFLOP/s{share}", "");
        let mut errors = errors(&weights, &x, &config, reference.as_deref_mut())?;
        if let Some(subject) = &subject {
            errors["gpu"] = json!(subject.error(&config)?);
            if args.profile {
                subject.profile(&config)?;
            }
        }
        println!("{:<16}  {}", "", shown(&errors));
        artifact.push(json!({
            "workload": name,
            "device": if subject.is_some() { "gpu" } else { "cpu" },
            "upload_ms": subject.as_ref().map(|subject| subject.upload_ms),
            "outputs": outputs,
            "inputs": inputs,
            "format": format,
            "rotation": rotation,
            "ours": ours.to_json(),
            "numpy": theirs.as_ref().map(Stages::to_json),
            "ratio": theirs.as_ref().map(|theirs| ratios(&ours, theirs)),
            "gemm_gflops": gemm_rate,
            "numpy_gemm_gflops": numpy_rate,
            "hessian_gflops": rate,
            "hessian_bf16_gflops": bf16_rate,
            "errors": errors,
        }));
    }
    Ok(())
}

/// As the specification's table of errors has it: integers are not rotated.
fn config(format: &str, rotation: usize) -> Result<Config> {
    let format: Format = format.parse()?;
    let rotation = match (format, rotation) {
        (Format::Int(_), _) | (_, 0) => Rotation::None,
        (_, block) => Rotation::Block(block),
    };
    Ok(Config {
        scales: ScaleRule::Minmax,
        four_over_six: false,
        mx_rule: MxRule::FpQuant,
        rotation,
        ..Config::new(format)
    })
}

/// Milliseconds of the stages on the CPU.
fn on_cpu(weights: &DMatrix<f32>, x: &[f32], config: &Config) -> Result<[f64; STAGES.len()]> {
    let start = Instant::now();
    let mut hessian = Hessian::new(weights.nrows());
    hessian.update(x)?;
    let hessian = hessian.mean();
    let first = start.elapsed();
    let inputs = Calibration::new(Some(&hessian), weights.nrows(), config)?;
    let second = start.elapsed();
    std::hint::black_box(inputs.encode(weights)?);
    let third = start.elapsed();
    Ok([first, second - first, third - second, third].map(|t| 1e3 * t.as_secs_f64()))
}

/// Runs of ours, and of the reference, by turns.
fn time(
    args: &Args,
    config: &Config,
    mut reference: Option<&mut Reference>,
    our_run: impl Fn() -> Result<[f64; STAGES.len()]>,
) -> Result<(Stages, Option<Stages>)> {
    let (mut ours, mut theirs) = (Stages::default(), Stages::default());
    for run in 0..=args.repeats.max(1) {
        let ms = our_run()?;
        if run > 0 {
            ours.push(ms);
        }
        if let Some(reference) = reference.as_deref_mut() {
            let answer = reference.ask(json!({
                "do": "run", "format": config.format.name(), "rotation": block(config.rotation),
            }))?;
            let ms = STAGES.map(|stage| answer[stage].as_f64().unwrap_or(f64::NAN));
            if run > 0 {
                theirs.push(ms);
            }
            // BLAS threads spin for a while before they sleep.
            std::thread::sleep(std::time::Duration::from_millis(150));
        }
    }
    Ok((ours, reference.is_some().then_some(theirs)))
}

/// How many times as long the reference takes.
fn ratios(ours: &Stages, theirs: &Stages) -> [f64; STAGES.len()] {
    let (ours, theirs) = (ours.medians(), theirs.medians());
    std::array::from_fn(|i| theirs[i] / ours[i])
}

fn block(rotation: Rotation) -> usize {
    match rotation {
        Rotation::None => 0,
        Rotation::Block(block) => block,
    }
}

fn row(values: [f64; STAGES.len()]) -> String {
    values.map(|value| format!("{value:>8.2}")).join("  ")
}

/// Relative squared errors of the outputs, on the inputs that were fitted to.
fn errors(
    weights: &DMatrix<f32>,
    x: &[f32],
    config: &Config,
    reference: Option<&mut Reference>,
) -> Result<Value> {
    let mut hessian = Hessian::new(weights.nrows());
    hessian.update(x)?;
    let hessian = hessian.mean();
    let error = |scales, solver| -> Result<f64> {
        let config = Config {
            scales,
            solver,
            ..config.clone()
        };
        Ok(quantize_linear(weights, Some(&hessian), &config)?
            .report
            .relative_error)
    };
    let mut errors = json!({
        "rtn": error(ScaleRule::Minmax, Solver::Rtn)?,
        "minmax": error(ScaleRule::Minmax, Solver::Gptq)?,
        "mse": error(ScaleRule::Mse, Solver::Gptq)?,
    });
    if let Some(reference) = reference {
        let answer = reference.ask(json!({
            "do": "error", "format": config.format.name(), "rotation": block(config.rotation),
        }))?;
        errors["numpy_rtn"] = answer["rtn"].clone();
        errors["numpy_minmax"] = answer["gptq"].clone();
    }
    Ok(errors)
}

fn shown(errors: &Value) -> String {
    let all = errors.as_object().into_iter().flatten();
    let one = |(name, error): (&String, &Value)| {
        format!("{name} {:.5}", error.as_f64().unwrap_or(f64::NAN))
    };
    format!("error: {}", all.map(one).collect::<Vec<_>>().join(", "))
}

/// GFLOP/s of products of two matrices of 2048 × 2048: the best of three of ours, and of the reference's.
fn gemm_rates(reference: Option<&mut Reference>) -> Result<(f64, Option<f64>)> {
    const N: usize = 2048;
    let mut rng = random::rng(1);
    let [a, b] = [0, 1].map(|_| DMatrix::from_vec(N, N, random::normal(&mut rng, N * N)));
    let mut c = DMatrix::zeros(N, N);
    let mut best = f64::INFINITY;
    for _ in 0..4 {
        let start = Instant::now();
        gemm(1.0, &a, &b, 0.0, &mut c, Parallelism::Rayon);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let mut numpy: Option<f64> = None;
    if let Some(reference) = reference {
        for _ in 0..3 {
            let answer = reference.ask(json!({ "do": "gemm" }))?;
            let rate = answer["gflops"]
                .as_f64()
                .context("no rate from the reference")?;
            numpy = Some(numpy.unwrap_or(0.0).max(rate));
        }
    }
    Ok((2.0 * (N * N * N) as f64 / best / 1e9, numpy))
}

/// GFLOP/s, counted as one triangle, of the Hessian stage when activations are bf16; the median run.
fn bf16_rate(args: &Args, inputs: usize, x: &[f32]) -> Result<f64> {
    let x: Vec<bf16> = x.iter().map(|&value| bf16::from_f32(value)).collect();
    let timings = Timings::of(args.repeats, || -> Result<()> {
        let mut hessian = Hessian::new(inputs);
        hessian.update_bf16(&x)?;
        std::hint::black_box(hessian.mean());
        Ok(())
    })?;
    Ok(args.tokens as f64 * (inputs * inputs) as f64 / timings.median() / 1e9)
}
