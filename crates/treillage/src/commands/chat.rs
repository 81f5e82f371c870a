//! `treillage chat`

use std::{
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Map;
use treillage_model::{
    GenerateOptions, Generated,
    text::{ChatTemplate, Message, SpecialTokens, Tokenizer},
};

use crate::{
    commands::{
        generate::{Speed, record, stream},
        sampling::SamplingArgs,
    },
    output,
    runtime::{LoadedModel, Runner, Runs, RuntimeArgs},
};

/// Starts the conversation over.
const RESET: &str = "/reset";

/// Talks with a model: each line on standard input is a turn, the end of input ends the conversation
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the checkpoint
    dir: PathBuf,
    /// What the model is told before the first turn
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_tokens: usize,
    /// Most tokens of the whole conversation
    #[arg(long, value_name = "N", default_value_t = 4096)]
    context: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    match args.runtime.runner()? {
        Runner::Cpu(backend) => {
            let result = run_on(&*backend, args, json);
            args.runtime.end(&*backend, result)
        }
        Runner::Gpu(backend) => {
            let result = run_on(&*backend, args, json);
            args.runtime.end(&*backend, result)
        }
    }
}

fn run_on<B: Runs>(backend: &B, args: &Args, json: bool) -> Result<()> {
    let tokenizer = Tokenizer::open(&args.dir)?;
    let template = ChatTemplate::open(&args.dir)?;
    let stages = args.runtime.stages();
    let load = stages.start("load");
    let loaded = LoadedModel::open(backend, &args.dir)?;
    drop(load);
    let mut session = loaded.model.session(backend, args.context)?;
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling: args.sampling.options(),
        stop_ids: turn_ends(&loaded.config().eos_token_ids, &tokenizer),
        stop_strings: args.sampling.stop_strings.clone(),
        special: SpecialTokens::Skip,
    };
    let opening: Vec<Message> = args
        .system
        .iter()
        .map(|text| Message::new("system", text))
        .collect();
    let mut messages = opening.clone();
    let interactive = io::stdin().is_terminal() && !json;
    if interactive {
        output::note(format_args!("{RESET} starts over, end of input ends"));
    }
    while let Some(line) = next_turn(interactive)? {
        if line == RESET {
            messages.clone_from(&opening);
            continue;
        }
        messages.push(Message::new("user", line));
        let text = template.render(&messages, true, &Map::new())?;
        let prompt = tokenizer.encode(&text)?;
        let answer = stream(&mut session, &tokenizer, &prompt, &options, json)?;
        record(stages, &answer);
        let speed = Speed::of(&answer);
        if json {
            output::print_json_line(&Turn {
                answer: &answer,
                speed,
            })?;
        } else {
            output::print_now("\n")?;
        }
        if interactive {
            output::note(speed.sentence(&answer));
        }
        messages.push(Message::new("assistant", answer.text));
    }
    Ok(())
}

/// What ends an answer: the model's end of text, and the end of a turn in ChatML, which some configs do not list.
fn turn_ends(end_of_text: &[u32], tokenizer: &Tokenizer) -> Vec<u32> {
    let end_of_turn = tokenizer.id("<|im_end|>");
    end_of_text.iter().copied().chain(end_of_turn).collect()
}

/// What `--json` prints, one line an answer.
#[derive(Serialize)]
struct Turn<'a> {
    #[serde(flatten)]
    answer: &'a Generated,
    #[serde(flatten)]
    speed: Speed,
}

/// The next line that says something, `None` at the end of input.
fn next_turn(interactive: bool) -> Result<Option<String>> {
    loop {
        if interactive {
            output::prompt("> ");
        }
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        if read.context("standard input")? == 0 {
            return Ok(None);
        }
        let line = line.trim();
        if !line.is_empty() {
            return Ok(Some(line.to_owned()));
        }
    }
}
