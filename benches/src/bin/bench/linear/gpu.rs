//! On a GPU: microseconds, weights per second, share of what a copying kernel moves.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use treillage_backend::{Inference, LinearShape, LinearWeights};
use treillage_benches::{
    artifact::Artifact,
    random::{self, Kind},
};
use treillage_cpu::{Arithmetic, CpuBackend};
use treillage_gpu::linear::{ExpertRows, Linear, project, project_experts, uses_matrices};
use treillage_gpu::{Adapters, Context, Gpu, Options, Tensor};
use treillage_trellis::Codebook;

use super::{Cases, bits, codebook};
use crate::device::copy_bandwidth;
use crate::{ArithmeticChoice, Storage};

#[derive(clap::Args)]
#[group(id = "on-gpu")]
pub(crate) struct Args {
    /// Do without cooperative matrices
    #[arg(long)]
    without_matrices: bool,
    /// Seconds of measured work for each line
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
    /// Megabytes of weights that are gone through in turn, so that they come from memory and not from a cache
    #[arg(long, default_value_t = 150)]
    megabytes: usize,
    /// Compare the first output with the CPU's
    #[arg(long)]
    check: bool,
}

/// What is measured unless something else is asked for: experts, attention, heads.
pub(super) fn usual() -> Cases {
    const SHAPES: [&str; 6] = [
        "8x2048x1536",
        "8x768x2048",
        "2048x4096",
        "4096x2048",
        "4096x14336",
        "2048x151936",
    ];
    Cases {
        formats: vec![Storage::Trellis],
        bits: vec![3],
        codebooks: vec![Codebook::Mul1],
        shapes: SHAPES.map(str::to_owned).to_vec(),
        batches: vec![1, 2, 4, 8, 16, 64, 512],
        arithmetic: vec![ArithmeticChoice::Int8],
    }
}

pub(super) fn run(args: &Args, index: usize, cases: &Cases) -> Result<Artifact> {
    let adapters = Adapters::find();
    let adapter = adapters.get(index)?;
    let open = |choice| {
        let options = Options {
            exact: matches!(choice, ArithmeticChoice::Exact),
            without_matrices: args.without_matrices,
            profile: true,
            ..Options::default()
        };
        Gpu::open(adapter, options)
    };
    let gpu = open(ArithmeticChoice::Int8)?;
    let bandwidth = copy_bandwidth(&gpu)?;
    let matrices = uses_matrices(&Context::new(&gpu))?;
    drop(gpu);
    println!(
        "{}: copies at {:.0} GB/s, matrix units {}",
        adapter.name(),
        bandwidth / 1e9,
        if matrices { "used" } else { "not used" }
    );
    let mut artifact = Artifact::new(
        "linear-gpu",
        json!({
            "adapter": adapter.name(),
            "copy_bytes_per_second": bandwidth,
            "matrices": matrices,
        }),
    );
    println!(
        "format   bits  codebook  shape         arithmetic  batch        us  Gweights/s   GB/s  of copies  TFLOP/s  error"
    );
    for &choice in &cases.arithmetic {
        let gpu = open(choice)?;
        for name in &cases.shapes {
            let shape = Shape::parse(name)?;
            for (format, kind) in cases.kinds()? {
                let (bits, codebook) = (bits(kind), codebook(kind));
                let subject = Subject::new(&gpu, args, shape, kind)?;
                for &batch in &cases.batches {
                    let measured = subject.measure(args, batch)?;
                    let speed = Speed::new(shape, kind, batch, measured.seconds);
                    println!(
                        "{format:<7}  {bits:>4}  {:<8}  {name:<12}  {choice:<10}  {batch:>5}  {:>8.2}  {:>10.1}  {:>5.0}  {:>8.1}%  {:>7.1}  {}",
                        codebook.unwrap_or_default(),
                        measured.seconds * 1e6,
                        speed.weights / 1e9,
                        speed.bytes / 1e9,
                        100.0 * speed.bytes / bandwidth,
                        speed.operations / 1e12,
                        measured
                            .error
                            .map_or_else(String::new, |e| format!("{e:.1e}")),
                    );
                    artifact.push(json!({
                        "format": format.to_string(),
                        "shape": name,
                        "bits": bits,
                        "codebook": codebook,
                        "arithmetic": choice.to_string(),
                        "batch": batch,
                        "seconds": measured.seconds,
                        "gweights_per_second": speed.weights / 1e9,
                        "of_copies": speed.bytes / bandwidth,
                        "tflops": speed.operations / 1e12,
                        "error": measured.error,
                    }));
                }
            }
        }
    }
    Ok(artifact)
}

/// What is done a second.
struct Speed {
    /// Weights that are read.
    weights: f64,
    bytes: f64,
    operations: f64,
}

impl Speed {
    fn new(shape: Shape, kind: Kind, batch: usize, seconds: f64) -> Self {
        let weights = (shape.experts.unwrap_or(1) * shape.linear.weights()) as f64;
        let read = match shape.experts {
            // Each row reads its own experts.
            Some(_) if batch <= MAX_PICKED => batch as f64 * weights,
            _ => weights,
        };
        Self {
            weights: read / seconds,
            bytes: read * kind.bits_per_weight() / 8.0 / seconds,
            operations: 2.0 * weights * batch as f64 / seconds,
        }
    }
}

/// Rows up to which each row finds its experts by itself.
const MAX_PICKED: usize = 8;

#[derive(Clone, Copy)]
struct Shape {
    experts: Option<usize>,
    linear: LinearShape,
}

impl Shape {
    fn parse(name: &str) -> Result<Self> {
        let numbers: Vec<usize> = name
            .split('x')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{name}: expected [experts x] inputs x outputs"))?;
        let (experts, inputs, outputs) = match numbers[..] {
            [inputs, outputs] => (None, inputs, outputs),
            [experts, inputs, outputs] => (Some(experts), inputs, outputs),
            _ => anyhow::bail!("{name}: expected [experts x] inputs x outputs"),
        };
        ensure!(experts != Some(0), "{name}: no experts");
        Ok(Self {
            experts,
            linear: LinearShape {
                in_features: inputs,
                out_features: outputs,
            },
        })
    }
}

/// What is measured.
struct Subject {
    context: Context,
    shape: Shape,
    weights: LinearWeights,
    /// One stack of experts, or linears that are gone through in turn.
    linears: Vec<Linear>,
    copies: usize,
}

struct Measured {
    seconds: f64,
    /// Of the output, relative.
    error: Option<f64>,
}

impl Subject {
    fn new(gpu: &Gpu, args: &Args, shape: Shape, kind: Kind) -> Result<Self> {
        let context = Context::new(gpu);
        let weights = random::linear(&mut random::rng(1), shape.linear, kind)?;
        let bytes = shape.linear.weights() as f64 * kind.bits_per_weight() / 8.0;
        let at_once = shape.experts.unwrap_or(1);
        let copies = (args.megabytes << 20).div_ceil(bytes as usize).max(2);
        let copies = copies.next_multiple_of(at_once);
        let linears = match shape.experts {
            Some(_) => vec![Linear::stack(
                &context,
                &vec![weights.clone(); copies],
                shape.linear,
            )?],
            None => (0..copies)
                .map(|_| Linear::load(&context, &weights, shape.linear))
                .collect::<Result<_, _>>()?,
        };
        Ok(Self {
            context,
            shape,
            weights,
            linears,
            copies,
        })
    }

    fn measure(&self, args: &Args, batch: usize) -> Result<Measured> {
        let context = &self.context;
        let width = self.shape.linear.in_features;
        let values = random::normal(&mut random::rng(2), batch * width);
        let (x, experts) = match self.shape.experts {
            None => (self.tensor(&values, width)?, Vec::new()),
            Some(top_k) if batch <= MAX_PICKED => {
                let picks = |turn: usize| -> Vec<u32> {
                    let first = turn * top_k * batch;
                    (0..top_k * batch)
                        .map(|i| ((first + i) % self.copies) as u32)
                        .collect()
                };
                let turns = (self.copies / (top_k * batch)).max(1);
                let picks = (0..turns).map(|turn| context.bring(&picks(turn)));
                (
                    self.tensor(&values, width)?,
                    picks.collect::<Result<_, _>>()?,
                )
            }
            Some(top_k) => {
                // Rows sorted by expert, as evenly as they come.
                let rows = batch * top_k;
                let offsets: Vec<u32> = (0..=self.copies)
                    .map(|e| (e * rows / self.copies) as u32)
                    .collect();
                let repeated: Vec<f32> =
                    values.iter().copied().cycle().take(rows * width).collect();
                (
                    self.tensor(&repeated, width)?,
                    vec![context.bring(&offsets)?],
                )
            }
        };
        let once = |turn: usize| -> Result<Tensor> {
            let mut outputs = match self.shape.experts {
                None => project(
                    context,
                    &x,
                    &[&self.linears[turn % self.linears.len()]],
                    None,
                )?,
                Some(top_k) => {
                    let slice = experts[turn % experts.len()].slice();
                    let rows = match batch <= MAX_PICKED {
                        true => ExpertRows::Picked {
                            experts: &slice,
                            rows: top_k * batch,
                            per_row: top_k,
                        },
                        false => ExpertRows::Grouped {
                            offsets: &slice,
                            rows: top_k * batch,
                        },
                    };
                    project_experts(context, &x, rows, &[&self.linears[0]])?
                }
            };
            outputs.pop().context("no output")
        };
        // Once unmeasured: kernels are compiled.
        let first = context.read(&once(0)?)?;
        let error = match args.check {
            true => Some(self.error(&first, &values, batch)?),
            false => None,
        };
        // Clocks rise with work: measured is what comes after some of it.
        let (mut turn, mut best) = (0, f64::MAX);
        let start = Instant::now();
        let mut calls = 1;
        while start.elapsed().as_secs_f64() < 1.5 * args.seconds {
            let seconds = self.seconds(calls, || {
                turn += 1;
                once(turn).map(drop)
            })?;
            if start.elapsed().as_secs_f64() > 0.5 * args.seconds {
                best = best.min(seconds / calls as f64);
            }
            // About 10 ms at a time.
            calls = ((calls as f64 * 0.01 / seconds) as usize).clamp(1, 2000);
        }
        Ok(Measured {
            seconds: best,
            error,
        })
    }

    /// How long `calls` calls take one after the other, by the device's clock: the host encodes commands while nothing runs. By the
    /// host's clock on devices that have none.
    fn seconds(&self, calls: usize, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
        let recorder = &self.context.recorder;
        // What ran before does not count.
        _ = recorder.take_profile();
        for call in 0..calls {
            recorder.time_kernels(call == 0 || call + 1 == calls);
            once()?;
        }
        let submitted = Instant::now();
        recorder.submit();
        self.context.gpu().wait()?;
        let by_host = submitted.elapsed();
        let by_device = recorder.take_profile().map(|profile| profile.elapsed());
        Ok(by_device.unwrap_or(by_host).as_secs_f64())
    }

    fn tensor(&self, values: &[f32], width: usize) -> Result<Tensor> {
        let tensor = self.context.tensor(values.len() / width, width)?;
        let bytes = bytemuck::cast_slice(values);
        self.context.recorder.write(&tensor.slice(), bytes);
        Ok(tensor)
    }

    /// Of the first output row, against the CPU's exact arithmetic.
    fn error(&self, y: &[f32], values: &[f32], batch: usize) -> Result<f64> {
        let cpu = CpuBackend::new(treillage_cpu::Options {
            arithmetic: Arithmetic::Exact,
            ..treillage_cpu::Options::default()
        });
        let LinearShape {
            in_features,
            out_features,
        } = self.shape.linear;
        let linear = cpu.load_linear(self.weights.clone(), self.shape.linear)?;
        // All experts have the same matrix; the last row is the last token's, or of those sorted the last repetition's.
        let last = match self.shape.experts {
            Some(top_k) if batch > MAX_PICKED => (batch * top_k - 1) % batch,
            _ => batch - 1,
        };
        let x = cpu.upload(
            &values[last * in_features..(last + 1) * in_features],
            in_features,
        )?;
        let zero = cpu.upload(&vec![0.0; out_features], out_features)?;
        let expected = cpu.read(&cpu.project_add(&x, &linear, &zero)?)?;
        let got = &y[y.len() - out_features..];
        let power: f64 = expected.iter().map(|e| f64::from(*e).powi(2)).sum();
        let error: f64 = got
            .iter()
            .zip(&expected)
            .map(|(g, e)| f64::from(g - e).powi(2))
            .sum();
        Ok((error / power).sqrt())
    }
}
