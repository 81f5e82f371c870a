//! `gpu-linear`: how fast does a GPU multiply with packed linears, straight from their words?

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use treillage_backend::{Inference, LinearShape, LinearWeights};
use treillage_benches::{artifact::Artifact, random};
use treillage_cpu::{Arithmetic, CpuBackend};
use treillage_gpu::linear::{ExpertRows, Linear, project, project_experts, uses_matrices};
use treillage_gpu::{Adapters, Context, Gpu, Options, Tensor};
use treillage_trellis::{Bits, Codebook};

use crate::device::copy_bandwidth;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bits per weight
    #[arg(long, value_delimiter = ',', default_values_t = [3])]
    bits: Vec<usize>,
    /// Codebooks
    #[arg(long, value_delimiter = ',', default_values_t = [Codebook::Mul1])]
    codebook: Vec<Codebook>,
    /// Inputs x outputs, or experts x inputs x outputs: so many experts of a row in one go
    #[arg(long, value_delimiter = ',', default_values_t = ["8x2048x1536", "8x768x2048", "4096x14336", "2048x4096", "2048x151936"].map(str::to_owned))]
    shapes: Vec<String>,
    /// Rows of activations
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    batches: Vec<usize>,
    /// Multiply in f32 where signs and bytes are faster
    #[arg(long)]
    exact: bool,
    /// Do without cooperative matrices
    #[arg(long)]
    without_matrices: bool,
    /// Which GPU, as `treillage devices` numbers them
    #[arg(long, default_value_t = 0)]
    gpu: usize,
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

pub(crate) fn run(args: &Args) -> Result<Artifact> {
    let adapters = Adapters::find();
    let adapter = adapters.get(args.gpu)?;
    let options = Options {
        exact: args.exact,
        without_matrices: args.without_matrices,
        ..Options::default()
    };
    let gpu = Gpu::open(adapter, options)?;
    let bandwidth = copy_bandwidth(&gpu)?;
    let matrices = uses_matrices(&Context::new(&gpu))?;
    println!(
        "{}: copies at {:.0} GB/s, matrix units {}",
        adapter.name(),
        bandwidth / 1e9,
        if matrices { "used" } else { "not used" }
    );
    let mut artifact = Artifact::new(
        "gpu-linear",
        json!({
            "adapter": adapter.name(),
            "copy_bytes_per_second": bandwidth,
            "exact": args.exact,
            "matrices": matrices,
        }),
    );
    println!(
        "bits  codebook  shape         batch        us  Gweights/s   GB/s  of copies  TFLOP/s  error"
    );
    for name in &args.shapes {
        let shape = Shape::parse(name)?;
        for &bits in &args.bits {
            for &codebook in &args.codebook {
                let subject = Subject::new(&gpu, args, shape, Bits::new(bits)?, codebook)?;
                for &batch in &args.batches {
                    let measured = subject.measure(args, batch)?;
                    let weights = (shape.experts.unwrap_or(1) * shape.linear.weights()) as f64;
                    let bytes = weights * bits as f64 / 8.0 / measured.seconds;
                    let operations = 2.0 * weights * batch as f64;
                    let read = match (shape.experts, batch <= MAX_PICKED) {
                        (Some(_), true) => batch as f64,
                        _ => 1.0,
                    };
                    println!(
                        "{bits:>4}  {:<8}  {name:<12}  {batch:>5}  {:>8.2}  {:>10.1}  {:>5.0}  {:>8.1}%  {:>7.1}  {}",
                        codebook.name(),
                        measured.seconds * 1e6,
                        read * weights / measured.seconds / 1e9,
                        read * bytes / 1e9,
                        100.0 * read * bytes / bandwidth,
                        operations / measured.seconds / 1e12,
                        measured
                            .error
                            .map_or_else(String::new, |e| format!("{e:.1e}")),
                    );
                    artifact.push(json!({
                        "shape": name,
                        "bits": bits,
                        "codebook": codebook.name(),
                        "batch": batch,
                        "seconds": measured.seconds,
                        "gweights_per_second": read * weights / measured.seconds / 1e9,
                        "error": measured.error,
                    }));
                }
            }
        }
    }
    Ok(artifact)
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
    fn new(gpu: &Gpu, args: &Args, shape: Shape, bits: Bits, codebook: Codebook) -> Result<Self> {
        let context = Context::new(gpu);
        let packed = random::packed_linear(&mut random::rng(1), shape.linear, bits, codebook)?;
        let at_once = shape.experts.unwrap_or(1);
        let copies = (args.megabytes << 20).div_ceil(packed.byte_len()).max(2);
        let copies = copies.next_multiple_of(at_once);
        let weights = LinearWeights::Trellis(Arc::new(packed));
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
            for _ in 0..calls {
                once(turn)?;
                turn += 1;
            }
            let submitted = Instant::now();
            context.recorder.submit();
            context.gpu().wait()?;
            let seconds = submitted.elapsed().as_secs_f64();
            if start.elapsed().as_secs_f64() > 0.5 * args.seconds {
                best = best.min(seconds / calls as f64);
            }
            // About 10 ms at a time: what submitting costs does not show.
            calls = ((calls as f64 * 0.01 / seconds) as usize).clamp(1, 2000);
        }
        Ok(Measured {
            seconds: best,
            error,
        })
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
