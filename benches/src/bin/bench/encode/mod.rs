//! `encode`: how many tiles a second does the Viterbi search encode, and how near do they come?

use anyhow::Result;
use rayon::prelude::*;
use serde_json::json;
use treillage_benches::{artifact::Artifact, random, timing::Timings};
use treillage_trellis::{Bits, Codebook, SimdLevel, TILE_WEIGHTS, viterbi::Encoder};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bits per weight
    #[arg(long, value_delimiter = ',', default_values_t = [2, 3, 4])]
    bits: Vec<usize>,
    #[arg(long, default_value_t)]
    codebook: Codebook,
    /// Threads
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// Tiles of 256 weights, drawn from N(0, 1)
    #[arg(long, default_value_t = 128)]
    tiles: usize,
    /// Measured runs, of which the best counts
    #[arg(long, default_value_t = 3)]
    repeats: usize,
}

type Tile = [f32; TILE_WEIGHTS];

pub(crate) fn run(args: &Args) -> Result<Artifact> {
    let mut artifact = Artifact::new(
        "encode",
        json!({
            "codebook": args.codebook.name(),
            "tiles": args.tiles,
            "repeats": args.repeats,
        }),
    );
    let values = random::normal(&mut random::rng(1), args.tiles * TILE_WEIGHTS);
    let (tiles, _) = values.as_chunks::<TILE_WEIGHTS>();
    println!("bits  level     threads   tiles/s   MSE/variance  at scale");
    for &bits in &args.bits {
        let bits = Bits::new(bits)?;
        let best = best_scale(tiles, bits, args.codebook);
        for level in SimdLevel::available() {
            let encoder = Encoder::with_level(bits, args.codebook, level);
            // The portable search is a hundred times slower than the best.
            let tiles = match level {
                SimdLevel::Portable => &tiles[..tiles.len().min(8)],
                _ => tiles,
            };
            for &threads in &args.threads {
                let pool = crate::pool(threads)?;
                let timings = Timings::of(args.repeats, || -> Result<()> {
                    pool.install(|| encode(&encoder, tiles, best.scale));
                    Ok(())
                })?;
                let rate = tiles.len() as f64 / timings.best();
                println!(
                    "{bits:>4}  {:<8}  {threads:>7}  {rate:>8.1}  {:>13.6}  {:>8.2}",
                    level.name(),
                    best.error,
                    best.scale
                );
                artifact.push(json!({
                    "bits": bits.get(),
                    "level": level.name(),
                    "threads": threads,
                    "tiles_per_second": rate,
                    "mse": best.error,
                    "scale": best.scale,
                }));
            }
        }
    }
    Ok(artifact)
}

/// Encodes `tiles` times `scale` and gives their squared error relative to their variance.
fn encode(encoder: &Encoder, tiles: &[Tile], scale: f32) -> Vec<[u16; TILE_WEIGHTS]> {
    let encode = |tile: &Tile| encoder.encode_tile(&tile.map(|value| value * scale));
    tiles.par_iter().map(encode).collect()
}

struct Best {
    scale: f32,
    error: f64,
}

/// The scale of the targets, in units of the codebook, at which the error is least.
fn best_scale(tiles: &[Tile], bits: Bits, codebook: Codebook) -> Best {
    let encoder = Encoder::new(bits, codebook);
    let table = codebook.table();
    let spread = (table.iter().map(|v| v * v).sum::<f32>() / table.len() as f32).sqrt();
    let trial = |relative: f32| {
        let scale = spread * relative;
        let states = encode(&encoder, tiles, scale);
        let (mut error, mut power) = (0.0, 0.0);
        for (value, &state) in tiles.as_flattened().iter().zip(states.as_flattened()) {
            error += f64::from(table[usize::from(state)] / scale - value).powi(2);
            power += f64::from(*value).powi(2);
        }
        Best {
            scale,
            error: error / power,
        }
    };
    let trials = (75..=105)
        .step_by(3)
        .map(|percent| trial(percent as f32 / 100.0));
    let least = |a: Best, b: Best| if b.error < a.error { b } else { a };
    trials.fold(trial(0.72), least)
}
