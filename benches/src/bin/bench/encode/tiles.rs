//! Tiles by themselves.

use anyhow::Result;
use rayon::prelude::*;
use serde_json::json;
use treillage_benches::{artifact::Artifact, random, timing::Timings};
use treillage_gpu::{Context, quantize::TileEncoder};
use treillage_trellis::viterbi::{Effort, Encoder};
use treillage_trellis::{Bits, Codebook, SimdLevel, TILE_WEIGHTS, tile};

use super::Args;

type Tile = [f32; TILE_WEIGHTS];
type States = [u16; TILE_WEIGHTS];

/// Tiles on which the GPU's error is held against the CPU's.
const COMPARED: usize = 128;

pub(super) fn run(args: &Args, context: Option<&Context>, artifact: &mut Artifact) -> Result<()> {
    let values = random::normal(&mut random::rng(1), args.tiles * TILE_WEIGHTS);
    let (tiles, _) = values.as_chunks::<TILE_WEIGHTS>();
    match context {
        Some(_) => {
            println!("bits  codebook  effort    tiles/s   MSE/variance  to the CPU's  at scale")
        }
        None => {
            println!("bits  codebook  effort  level     threads   tiles/s   MSE/variance  at scale")
        }
    }
    for &bits in &args.bits {
        let bits = Bits::new(bits)?;
        for &codebook in &args.codebook {
            let few = &tiles[..tiles.len().min(COMPARED)];
            let best = best_scale(few, bits, codebook);
            for &effort in &args.effort {
                match context {
                    Some(context) => gpu(
                        args,
                        context,
                        (bits, codebook, effort),
                        tiles,
                        &best,
                        artifact,
                    )?,
                    None => cpu(args, (bits, codebook, effort), tiles, &best, artifact)?,
                }
            }
        }
    }
    Ok(())
}

fn cpu(
    args: &Args,
    (bits, codebook, effort): (Bits, Codebook, Effort),
    tiles: &[Tile],
    best: &Best,
    artifact: &mut Artifact,
) -> Result<()> {
    for level in SimdLevel::available() {
        let encoder = Encoder::with_level(bits, codebook, level).with_effort(effort);
        // The portable search is a hundred times slower than the best.
        let tiles = match level {
            SimdLevel::Portable => &tiles[..tiles.len().min(8)],
            _ => tiles,
        };
        for &threads in &args.threads {
            let pool = crate::pool(threads)?;
            let mut states = Vec::new();
            let timings = Timings::of(args.repeats, || -> Result<()> {
                states = pool.install(|| encode(&encoder, tiles, best.scale));
                Ok(())
            })?;
            let rate = tiles.len() as f64 / timings.best();
            let mse = error(tiles, &states, best.scale, codebook);
            println!(
                "{bits:>4}  {codebook:<8}  {:<6}  {:<8}  {threads:>7}  {rate:>8.1}  {mse:>13.6}  {:>8.2}",
                effort.name(),
                level.name(),
                best.scale
            );
            artifact.push(json!({
                "bits": bits.get(),
                "codebook": codebook.name(),
                "effort": effort.name(),
                "level": level.name(),
                "threads": threads,
                "tiles_per_second": rate,
                "mse": mse,
                "scale": best.scale,
            }));
        }
    }
    Ok(())
}

fn gpu(
    args: &Args,
    context: &Context,
    (bits, codebook, effort): (Bits, Codebook, Effort),
    tiles: &[Tile],
    best: &Best,
    artifact: &mut Artifact,
) -> Result<()> {
    let encoder = TileEncoder::new(context, bits, codebook, effort, args.tuning())?;
    let targets: Vec<f32> = tiles
        .as_flattened()
        .iter()
        .map(|w| w * best.scale)
        .collect();
    let mut words = Vec::new();
    let timings = Timings::of(args.repeats, || -> Result<()> {
        words = encoder.encode(context, &targets)?;
        Ok(())
    })?;
    let rate = tiles.len() as f64 / timings.best();
    let words = words.par_chunks_exact(bits.words_per_tile());
    let states: Vec<States> = words
        .map(|words| tile::unpack_states(words, bits))
        .collect();
    let mse = error(tiles, &states, best.scale, codebook);
    let few = tiles.len().min(COMPARED);
    let ratio = error(&tiles[..few], &states[..few], best.scale, codebook) / best.error;
    println!(
        "{bits:>4}  {codebook:<8}  {:<6}  {rate:>9.0}  {mse:>13.6}  {ratio:>12.4}  {:>8.2}",
        effort.name(),
        best.scale
    );
    artifact.push(json!({
        "bits": bits.get(),
        "codebook": codebook.name(),
        "effort": effort.name(),
        "tiles_per_second": rate,
        "mse": mse,
        "mse_to_cpu": ratio,
        "scale": best.scale,
    }));
    Ok(())
}

fn encode(encoder: &Encoder, tiles: &[Tile], scale: f32) -> Vec<States> {
    let encode = |tile: &Tile| encoder.encode_tile(&tile.map(|value| value * scale));
    tiles.par_iter().map(encode).collect()
}

/// The squared error of `tiles` that are `states` at `scale`, relative to their variance.
fn error(tiles: &[Tile], states: &[States], scale: f32, codebook: Codebook) -> f64 {
    let table = codebook.table();
    let (mut error, mut power) = (0.0, 0.0);
    for (value, &state) in tiles.as_flattened().iter().zip(states.as_flattened()) {
        error += f64::from(table[usize::from(state)] / scale - value).powi(2);
        power += f64::from(*value).powi(2);
    }
    error / power
}

struct Best {
    scale: f32,
    error: f64,
}

/// The scale of the targets, in units of the codebook, at which the error of the CPU's best search is least.
fn best_scale(tiles: &[Tile], bits: Bits, codebook: Codebook) -> Best {
    let encoder = Encoder::new(bits, codebook);
    let table = codebook.table();
    let spread = (table.iter().map(|v| v * v).sum::<f32>() / table.len() as f32).sqrt();
    let trial = |relative: f32| {
        let scale = spread * relative;
        let states = encode(&encoder, tiles, scale);
        Best {
            scale,
            error: error(tiles, &states, scale, codebook),
        }
    };
    let trials = (75..=105)
        .step_by(3)
        .map(|percent| trial(percent as f32 / 100.0));
    let least = |a: Best, b: Best| if b.error < a.error { b } else { a };
    trials.fold(trial(0.72), least)
}
