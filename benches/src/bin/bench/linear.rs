//! `linear`: how fast is one packed linear multiplied, straight from its words?

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;
use treillage_backend::{Inference, LinearShape, LinearWeights};
use treillage_benches::{artifact::Artifact, random, timing::Timings};
use treillage_cpu::{CpuBackend, Options};
use treillage_trellis::{Bits, Codebook, SimdLevel};

use crate::ArithmeticChoice;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bits per weight
    #[arg(long, value_delimiter = ',', default_values_t = [2, 3, 4])]
    bits: Vec<usize>,
    #[arg(long, default_value_t)]
    codebook: Codebook,
    /// Inputs x outputs
    #[arg(long, value_delimiter = ',', default_values_t = ["2048x1536".to_owned()])]
    shapes: Vec<String>,
    /// Rows of activations
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 64])]
    batches: Vec<usize>,
    /// Arithmetic
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [ArithmeticChoice::Exact, ArithmeticChoice::Int8])]
    arithmetic: Vec<ArithmeticChoice>,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Linears that are gone through in turn, so that their words come from memory and not from a cache
    #[arg(long, default_value_t = 16)]
    copies: usize,
    /// Measured runs, of which the best counts
    #[arg(long, default_value_t = 5)]
    repeats: usize,
}

pub(crate) fn run(args: &Args) -> Result<Artifact> {
    let mut artifact = Artifact::new(
        "linear",
        json!({
            "codebook": args.codebook.name(),
            "threads": args.threads,
            "copies": args.copies,
            "repeats": args.repeats,
        }),
    );
    let pool = crate::pool(args.threads)?;
    println!("bits  shape      arithmetic  level     batch  Gweights/s  Gmul-adds/s");
    for name in &args.shapes {
        let shape = parse(name)?;
        for &bits in &args.bits {
            let linears = linears(args, shape, Bits::new(bits)?)?;
            for &choice in &args.arithmetic {
                for simd in SimdLevel::available() {
                    for &batch in &args.batches {
                        let options = Options {
                            arithmetic: choice.into(),
                            simd,
                        };
                        let seconds =
                            pool.install(|| seconds(args, options, shape, &linears, batch))?;
                        let weights = shape.weights() as f64 / seconds / 1e9;
                        println!(
                            "{bits:>4}  {name:<9}  {choice:<10}  {:<8}  {batch:>5}  {weights:>10.2}  {:>11.2}",
                            simd.name(),
                            weights * batch as f64
                        );
                        artifact.push(json!({
                            "shape": [shape.in_features, shape.out_features],
                            "bits": bits,
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

fn linears(args: &Args, shape: LinearShape, bits: Bits) -> Result<Vec<LinearWeights>> {
    let mut rng = random::rng(1);
    (0..args.copies.max(1))
        .map(|_| {
            let packed = random::packed_linear(&mut rng, shape, bits, args.codebook)?;
            Ok(LinearWeights::Trellis(Arc::new(packed)))
        })
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
