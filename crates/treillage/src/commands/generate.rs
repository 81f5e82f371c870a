//! `treillage generate`

use std::{ops::ControlFlow, path::PathBuf};

use anyhow::Result;
use serde::Serialize;
use treillage_model::{
    GenerateOptions, Generated, Session, generate,
    text::{SpecialTokens, Tokenizer},
};
use treillage_telemetry::{Counts, Stages};

use crate::{
    commands::sampling::SamplingArgs,
    output,
    runtime::{LoadedModel, Runner, Runs, RuntimeArgs},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the checkpoint
    dir: PathBuf,
    /// Text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Most tokens to add
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Most tokens of prompt and continuation; by default, as many as they can have
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Write special tokens out instead of leaving them away
    #[arg(long)]
    special: bool,
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
    let stages = args.runtime.stages();
    let load = stages.start("load");
    let loaded = LoadedModel::open(backend, &args.dir)?;
    drop(load);
    let prompt = tokenizer.encode_with_special(&args.prompt)?;
    let context = args
        .context
        .unwrap_or(prompt.len().saturating_add(args.max_tokens));
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling: args.sampling.options(),
        stop_ids: loaded.config().eos_token_ids.clone(),
        stop_strings: args.sampling.stop_strings.clone(),
        special: if args.special {
            SpecialTokens::Keep
        } else {
            SpecialTokens::Skip
        },
    };
    let mut session = loaded.model.session(backend, context)?;
    let generated = stream(&mut session, &tokenizer, &prompt, &options, json)?;
    record(stages, &generated);
    let speed = Speed::of(&generated);
    if json {
        output::print_json_line(&Report {
            prompt: &args.prompt,
            generated: &generated,
            speed,
            telemetry: backend.counts(),
        })
    } else {
        output::print_now("\n")?;
        output::note(speed.sentence(&generated));
        Ok(())
    }
}

/// Notes how long a prompt and its continuation took.
pub(crate) fn record(stages: &Stages, generated: &Generated) {
    stages.record("prefill", generated.prefill);
    stages.record("decode", generated.decode);
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    prompt: &'a str,
    #[serde(flatten)]
    generated: &'a Generated,
    #[serde(flatten)]
    speed: Speed,
    /// What the backend counted.
    telemetry: Counts,
}

/// Generates and prints the text as it comes, or keeps silent for a machine that wants it whole.
pub(crate) fn stream<B: Runs>(
    session: &mut Session<'_, B>,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    silent: bool,
) -> Result<Generated> {
    let mut printed = Ok(());
    let mut emit = |piece: &str| {
        if !silent {
            printed = output::print_now(piece);
        }
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let generated = generate(session, tokenizer, prompt, options, &mut emit)?;
    printed?;
    Ok(generated)
}

/// Tokens per second of a continuation.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Speed {
    prefill_tokens_per_second: f64,
    /// The first token comes with the prompt; `None` if there is no other.
    decode_tokens_per_second: Option<f64>,
}

impl Speed {
    pub(crate) fn of(generated: &Generated) -> Self {
        let read = generated.prompt_tokens - generated.reused_tokens;
        let decoded = generated.ids.len().saturating_sub(1);
        Self {
            prefill_tokens_per_second: read as f64 / generated.prefill.as_secs_f64(),
            decode_tokens_per_second: (decoded > 0)
                .then(|| decoded as f64 / generated.decode.as_secs_f64()),
        }
    }

    pub(crate) fn sentence(&self, generated: &Generated) -> String {
        let mut text = format!(
            "prompt: {} tokens, {:.1} tok/s",
            generated.prompt_tokens, self.prefill_tokens_per_second
        );
        if let Some(speed) = self.decode_tokens_per_second {
            let tokens = generated.ids.len();
            text.push_str(&format!(
                "; continuation: {tokens} tokens, {speed:.1} tok/s"
            ));
        }
        text
    }
}
