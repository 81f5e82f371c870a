//! The treillage command line: quantizes mixture-of-experts language models to 1-8 bits per weight and runs them.
//!
//! A thin driver over the libraries of this workspace: it reads arguments, chooses a backend, shows progress and
//! prints results. One file a command under `commands`.
#![forbid(unsafe_code)]

mod commands;
mod failure;
mod fixtures;
mod names;
mod output;
mod progress;
mod runtime;
mod stats;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use commands::{chat, demo, dequantize, devices, eval, generate, inspect, quantize};

/// Quantizes mixture-of-experts language models to 1-8 bits per weight and runs them
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write the result as JSON, and nothing but errors elsewhere
    #[arg(long, global = true, display_order = 1000)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Quantize, evaluate and run the repository's own small model: see what it is all about
    Demo(demo::Args),
    /// Turn a Hugging Face checkpoint into a quantized one
    Quantize(quantize::Args),
    /// Measure how well a model predicts a text, and how far it is from a reference
    Eval(eval::Args),
    /// Continue a prompt
    Generate(generate::Args),
    /// Talk with a model
    Chat(chat::Args),
    /// Tell what a checkpoint is made of and what it takes to run it
    Inspect(inspect::Args),
    /// Turn a quantized checkpoint back into 16-bit weights that any other tool reads
    Dequantize(dequantize::Args),
    /// List the GPUs of this machine
    Devices,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::report_usage(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(cli: Cli) -> Result<()> {
    let json = cli.json;
    match cli.command {
        Command::Demo(args) => demo::run(&args, json),
        Command::Quantize(args) => quantize::run(&args, json),
        Command::Eval(args) => eval::run(&args, json),
        Command::Generate(args) => generate::run(&args, json),
        Command::Chat(args) => chat::run(&args, json),
        Command::Inspect(args) => inspect::run(&args, json),
        Command::Dequantize(args) => dequantize::run(&args, json),
        Command::Devices => devices::run(json),
    }
}
