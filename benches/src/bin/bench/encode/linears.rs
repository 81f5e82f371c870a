//! Whole linears, from weights to what a file holds.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use nalgebra::DMatrix;
use serde_json::json;
use treillage_backend::{EncodeJob, LinearShape, Quantization};
use treillage_benches::{artifact::Artifact, presets::PRESETS, random};
use treillage_cpu::CpuBackend;
use treillage_gpu::{Context, quantize::encode_trellis};
use treillage_model::plan::plan;
use treillage_trellis::viterbi::Effort;
use treillage_trellis::{Bits, Codebook, EncodeConfig, Encoded, TILE_WEIGHTS};

use super::Args;
use crate::device::print_profile;

/// Directions in which activations vary more than in others.
const DIRECTIONS: usize = 64;

pub(super) fn run(args: &Args, context: Option<&Context>, artifact: &mut Artifact) -> Result<()> {
    let hessian = (!args.no_feedback).then(|| Arc::new(hessian(args.rows)));
    println!("bits  codebook  effort    tiles/s  s/linear  s/batch     error  hours of");
    for &bits in &args.bits {
        let bits = Bits::new(bits)?;
        for &codebook in &args.codebook {
            for &effort in &args.effort {
                let jobs = jobs(args, bits, codebook, effort, hessian.as_ref());
                let start = Instant::now();
                let encoded = encode(args, context, jobs)?;
                let seconds = start.elapsed().as_secs_f64();
                report(args, (bits, codebook, effort), &encoded, seconds, artifact)?;
                if let Some(context) = context {
                    print_profile(context);
                }
            }
        }
    }
    Ok(())
}

fn encode(
    args: &Args,
    context: Option<&Context>,
    jobs: Vec<EncodeJob<EncodeConfig>>,
) -> Result<Vec<Encoded>> {
    Ok(match context {
        Some(context) => encode_trellis(context, jobs, args.tuning())?,
        None => CpuBackend::default().encode_trellis(jobs)?,
    })
}

fn report(
    args: &Args,
    (bits, codebook, effort): (Bits, Codebook, Effort),
    encoded: &[Encoded],
    seconds: f64,
    artifact: &mut Artifact,
) -> Result<()> {
    let linears = encoded.len() as f64;
    let tiles = linears * (args.rows * args.columns / TILE_WEIGHTS) as f64;
    let rate = tiles / seconds;
    let error = encoded.iter().map(|e| e.report.relative_error).sum::<f64>() / linears;
    print!(
        "{bits:>4}  {codebook:<8}  {:<6}  {rate:>9.0}  {:>8.3}  {seconds:>7.2}  {error:>8.6}",
        effort.name(),
        seconds / linears,
    );
    let mut hours = serde_json::Map::new();
    for preset in PRESETS {
        let model = plan(&preset.config(None, None)?);
        let linears = model.blocks.iter().flat_map(|block| &block.linears);
        let weights: usize = linears.map(|linear| linear.shape.weights()).sum();
        let needed = (weights / TILE_WEIGHTS) as f64 / rate / 3600.0;
        print!("  {} {needed:.2}", preset.name);
        hours.insert(preset.name.to_owned(), needed.into());
    }
    println!();
    artifact.push(json!({
        "bits": bits.get(),
        "codebook": codebook.name(),
        "effort": effort.name(),
        "tiles_per_second": rate,
        "seconds_per_linear": seconds / linears,
        "seconds": seconds,
        "relative_error": error,
        "hours": hours,
    }));
    Ok(())
}

fn jobs(
    args: &Args,
    bits: Bits,
    codebook: Codebook,
    effort: Effort,
    hessian: Option<&Arc<DMatrix<f32>>>,
) -> Vec<EncodeJob<EncodeConfig>> {
    let shape = LinearShape {
        in_features: args.rows,
        out_features: args.columns,
    };
    let job = |expert: usize| EncodeJob {
        name: format!("expert {expert}"),
        weights: random::normal(&mut random::rng(expert as u64), shape.weights()),
        shape,
        hessian: hessian.cloned(),
        config: EncodeConfig {
            effort,
            ..EncodeConfig::new(bits, codebook, expert as u64)
        },
    };
    (0..args.experts).map(job).collect()
}

/// The second moment of inputs that vary along some directions four times as much as along the rest.
fn hessian(inputs: usize) -> DMatrix<f32> {
    let values = random::normal(&mut random::rng(0), inputs * DIRECTIONS);
    let directions = DMatrix::from_vec(inputs, DIRECTIONS, values);
    let spread = 16.0 / inputs as f32;
    &directions * directions.transpose() * spread + DMatrix::identity(inputs, inputs)
}
