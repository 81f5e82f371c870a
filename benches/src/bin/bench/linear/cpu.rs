//! On a CPU: weights per second, by instruction set.

use anyhow::{Context, Result};
use serde_json::json;
use treillage_backend::{Inference, LinearShape, LinearWeights};
use treillage_benches::random::{self, Kind};
use treillage_benches::{artifact::Artifact, timing::Timings};
use treillage_cpu::{CpuBackend, Options};
use treillage_gptq::{Format, IntBits};
use treillage_trellis::{Codebook, SimdLevel};

use super::{Cases, bits, codebook};
use crate::{ArithmeticChoice, Storage};

#[derive(clap::Args)]
#[group(id = "on-cpu")]
pub(crate) struct Args {
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Linears that are gone through in turn, so that their words come from memory and not from a cache
    #[arg(long, default_value_t = 16)]
    copies: usize,
    /// Measured runs, of which the best counts
    #[arg(long, default_value_t = 5)]
    repeats: usize,
}

/// What is measured unless something else is asked for.
pub(super) fn usual() -> Cases {
    Cases {
        formats: vec![
            Storage::Trellis,
            Storage::Grouped(Format::Int(IntBits::Four)),
            Storage::Grouped(Format::Int(IntBits::Eight)),
            Storage::Grouped(Format::NvFp4),
            Storage::Grouped(Format::MxFp4),
        ],
        bits: vec![2, 3, 4],
        codebooks: vec![Codebook::Mul1],
        shapes: vec!["2048x1536".to_owned()],
        batches: vec![1, 4, 64],
        arithmetic: vec![ArithmeticChoice::Exact, ArithmeticChoice::Int8],
    }
}

pub(super) fn run(args: &Args, cases: &Cases) -> Result<Artifact> {
    let mut artifact = Artifact::new(
        "linear",
        json!({
            "threads": args.threads,
            "copies": args.copies,
            "repeats": args.repeats,
        }),
    );
    let pool = crate::pool(args.threads)?;
    println!(
        "format   bits  codebook  shape      arithmetic  level     batch  Gweights/s  Gmul-adds/s"
    );
    for name in &cases.shapes {
        let shape = parse(name)?;
        for (format, kind) in cases.kinds()? {
            let linears = linears(args, shape, kind)?;
            let (bits, codebook) = (bits(kind), codebook(kind));
            for &choice in &cases.arithmetic {
                for simd in SimdLevel::available() {
                    for &batch in &cases.batches {
                        let options = Options {
                            arithmetic: choice.into(),
                            simd,
                        };
                        let seconds =
                            pool.install(|| seconds(args, options, shape, &linears, batch))?;
                        let weights = shape.weights() as f64 / seconds / 1e9;
                        println!(
                            "{format:<7}  {bits:>4}  {:<8}  {name:<9}  {choice:<10}  {:<8}  {batch:>5}  {weights:>10.2}  {:>11.2}",
                            codebook.unwrap_or_default(),
                            simd.name(),
                            weights * batch as f64
                        );
                        artifact.push(json!({
                            "format": format.to_string(),
                            "shape": [shape.in_features, shape.out_features],
                            "bits": bits,
                            "codebook": codebook,
                            "arithmetic": choice.to_string(),
                            "level": simd.name(),
                            "batch": batch,
                            "seconds": seconds,
                            "gweights_per_second": weights,
                        }));
                    }
                }
            }
        }
    }
    Ok(artifact)
}

/// `2048x1536`.
fn parse(shape: &str) -> Result<LinearShape> {
    let numbers = shape.split_once('x').and_then(|(inputs, outputs)| {
        Some(LinearShape {
            in_features: inputs.parse().ok()?,
            out_features: outputs.parse().ok()?,
        })
    });
    numbers.with_context(|| format!("{shape}: expected inputs x outputs, as in 2048x1536"))
}

fn linears(args: &Args, shape: LinearShape, kind: Kind) -> Result<Vec<LinearWeights>> {
    let mut rng = random::rng(1);
    (0..args.copies.max(1))
        .map(|_| Ok(random::linear(&mut rng, shape, kind)?))
        .collect()
}

/// Seconds of one product of `batch` rows.
fn seconds(
    args: &Args,
    options: Options,
    shape: LinearShape,
    linears: &[LinearWeights],
    batch: usize,
) -> Result<f64> {
    let backend = CpuBackend::new(options);
    let linears = linears
        .iter()
        .map(|weights| backend.load_linear(weights.clone(), shape))
        .collect::<Result<Vec<_>, _>>()?;
    let values = random::normal(&mut random::rng(2), batch * shape.in_features);
    let x = backend.upload(&values, shape.in_features)?;
    let residual = backend.upload(&vec![0.0; batch * shape.out_features], shape.out_features)?;
    let timings = Timings::of(args.repeats, || -> Result<()> {
        for linear in &linears {
            backend.project_add(&x, linear, &residual)?;
        }
        Ok(())
    })?;
    Ok(timings.best() / linears.len() as f64)
}
