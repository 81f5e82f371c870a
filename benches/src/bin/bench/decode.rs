//! `decode`: how fast does a mixture-of-experts model of random words read and write?

use anyhow::Result;
use serde_json::json;
use treillage_benches::{artifact::Artifact, random::RandomModel, timing::Timings};
use treillage_cpu::{Arithmetic, CpuBackend, Options};
use treillage_model::{Model, argmax};
use treillage_trellis::{Bits, Codebook};

use crate::ArithmeticChoice;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bits per weight
    #[arg(long, default_value_t = 3)]
    bits: usize,
    /// Bits of the head
    #[arg(long, default_value_t = 3)]
    head_bits: usize,
    #[arg(long, default_value_t)]
    codebook: Codebook,
    /// Arithmetic of packed linears
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
    let weights = RandomModel {
        bits: Bits::new(args.bits)?,
        head_bits: Bits::new(args.head_bits)?,
        codebook: args.codebook,
    };
    let mut artifact = Artifact::new(
        "decode",
        json!({
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
        let mut token = first;
        for _ in 0..args.tokens {
            token = argmax(&session.extend(&[token])?)?;
        }
        Ok(())
    })?;
    Ok(Measured {
        prefill: args.prompt as f64 / prefill.median(),
        decode: args.tokens as f64 / decode.median(),
        decode_best: args.tokens as f64 / decode.best(),
    })
}
