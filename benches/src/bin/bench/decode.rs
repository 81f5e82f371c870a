//! `decode`: how fast does a mixture-of-experts model of random words read and write?

use anyhow::Result;
use serde_json::json;
use treillage_backend::{Choice, Inference};
use treillage_benches::random::{Kind, RandomModel};
use treillage_benches::{artifact::Artifact, timing::Timings};
use treillage_cpu::{Arithmetic, CpuBackend, Options};
use treillage_model::Model;
use treillage_trellis::{Bits, Codebook};

use crate::{ArithmeticChoice, Storage};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// trellis, int2, int3, int4, int8, nvfp4, mxfp4 or fp4
    #[arg(long, default_value_t = Storage::Trellis)]
    format: Storage,
    /// Bits per weight of trellis codes
    #[arg(long, default_value_t = 3)]
    bits: usize,
    /// Bits of the head, of trellis codes
    #[arg(long, default_value_t = 3)]
    head_bits: usize,
    /// Codebook of trellis codes
    #[arg(long, default_value_t)]
    codebook: Codebook,
    /// Arithmetic of linears
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [ArithmeticChoice::Exact, ArithmeticChoice::Int8])]
    arithmetic: Vec<ArithmeticChoice>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Transformer blocks
    #[arg(long, default_value_t = 8)]
    layers: usize,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 64)]
    prompt: usize,
    /// Tokens to decode
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Measured runs, of which the median counts
    #[arg(long, default_value_t = 5)]
    repeats: usize,
}

pub(crate) fn run(args: &Args) -> Result<Artifact> {
    let kind = |bits| -> Result<Kind> {
        Ok(match args.format {
            Storage::Trellis => Kind::Trellis(Bits::new(bits)?, args.codebook),
            Storage::Grouped(format) => Kind::Grouped(format),
        })
    };
    let weights = RandomModel {
        blocks: kind(args.bits)?,
        head: kind(args.head_bits)?,
    };
    let mut artifact = Artifact::new(
        "decode",
        json!({
            "format": args.format.to_string(),
            "bits": args.bits,
            "head_bits": args.head_bits,
            "codebook": args.codebook.name(),
            "threads": args.threads,
            "layers": args.layers,
            "prompt_tokens": args.prompt,
            "decoded_tokens": args.tokens,
            "repeats": args.repeats,
        }),
    );
    println!("arithmetic  prefill tok/s  decode tok/s  decode, best");
    for &choice in &args.arithmetic {
        let (name, arithmetic) = match choice {
            ArithmeticChoice::Exact => ("exact", Arithmetic::Exact),
            ArithmeticChoice::Int8 => ("int8", Arithmetic::Int8),
        };
        let measured =
            crate::pool(args.threads)?.install(|| measure(args, &weights, arithmetic))?;
        println!(
            "{name:<10}  {:>13.1}  {:>12.1}  {:>12.1}",
            measured.prefill, measured.decode, measured.decode_best
        );
        artifact.push(json!({
            "arithmetic": choice.to_string(),
            "prefill_tokens_per_second": measured.prefill,
            "decode_tokens_per_second": measured.decode,
            "decode_tokens_per_second_best": measured.decode_best,
        }));
    }
    Ok(artifact)
}

/// Tokens per second.
struct Measured {
    prefill: f64,
    decode: f64,
    decode_best: f64,
}

fn measure(args: &Args, weights: &RandomModel, arithmetic: Arithmetic) -> Result<Measured> {
    let backend = CpuBackend::new(Options {
        arithmetic,
        ..Options::default()
    });
    let model = Model::load(&backend, weights, &RandomModel::config(args.layers)?)?;
    let mut session = model.session(&backend, args.prompt + args.tokens)?;
    let prompt: Vec<u32> = (1..=args.prompt as u32).map(|i| i * 997 % 32_000).collect();

    let prefill = Timings::of(args.repeats, || -> Result<()> {
        session.truncate(0);
        session.extend(&prompt)?;
        Ok(())
    })?;
    let first = prompt.last().copied().unwrap_or_default();
    let decode = Timings::of(args.repeats, || -> Result<()> {
        session.truncate(prompt.len());
        let mut token = session.extend_and_choose(&[first], &Choice::GREEDY)?;
        for _ in 1..args.tokens {
            token = session.follow(&token, &Choice::GREEDY)?;
        }
        backend.read_tokens(&token)?;
        Ok(())
    })?;
    Ok(Measured {
        prefill: args.prompt as f64 / prefill.median(),
        decode: args.tokens as f64 / decode.median(),
        decode_best: args.tokens as f64 / decode.best(),
    })
}
