//! Continuing a text token by token.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use serde::Serialize;
use treillage_backend::Inference;

use crate::{
    Error, SamplingOptions, Session,
    text::{SpecialTokens, Tokenizer},
};

mod drawing;
mod stops;
use drawing::Drawing;
use stops::StopStrings;

/// How to continue a text, and when to stop.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Most tokens to add.
    pub max_tokens: usize,
    /// How to choose each.
    pub sampling: SamplingOptions,
    /// Token ids that end the text and are no part of it.
    pub stop_ids: Vec<u32>,
    /// Strings that end the text and are no part of it; empty ones are ignored.
    pub stop_strings: Vec<String>,
    /// What to do with special tokens in the text.
    pub special: SpecialTokens,
}

/// A continuation.
#[derive(Clone, Debug, Serialize)]
pub struct Generated {
    /// Its tokens, with the one that ended it, if one did.
    pub ids: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that the session still knew.
    pub reused_tokens: usize,
    /// Time from the start to the first token.
    pub prefill: Duration,
    /// Time from there to the end.
    pub decode: Duration,
}

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model chose one of the stop ids.
    StopToken,
    /// The text contained one of the stop strings.
    StopString,
    /// It has as many tokens as were asked for.
    MaxTokens,
    /// The session is full.
    ContextFull,
    /// The caller had enough.
    Cancelled,
}

/// Continues `prompt` and passes the text on to `emit` piece by piece, as soon as it is certain.
///
/// What the session already knows of the prompt, from an earlier turn, is not computed again.
///
/// # Errors
/// If the prompt is empty or longer than the session, an option is out of range, or the model fails.
pub fn generate<B: Inference>(
    session: &mut Session<'_, B>,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    emit: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generated, Error> {
    let mut stops = StopStrings::new(&options.stop_strings);
    let mut decoder = tokenizer.stream(options.special);
    let mut text = String::new();
    let mut ids = Vec::new();
    let mut pass_on = |piece: &str| {
        if piece.is_empty() {
            return ControlFlow::Continue(());
        }
        text.push_str(piece);
        emit(piece)
    };

    let start = Instant::now();
    let reused_tokens = session.rewind(prompt);
    let mut drawing = Drawing::start(session, options.sampling, prompt, reused_tokens)?;
    let mut prefill = None;

    let finish = loop {
        let wanted = options.max_tokens - ids.len();
        if wanted == 0 {
            break Finish::MaxTokens;
        }
        let Some(id) = drawing.next(wanted > 1)? else {
            break Finish::ContextFull;
        };
        // Only a token that was read shows that the prompt was.
        prefill.get_or_insert_with(|| start.elapsed());
        ids.push(id);
        if options.stop_ids.contains(&id) {
            break Finish::StopToken;
        }
        let step = stops.push(&decoder.push(id)?);
        if pass_on(&step.text).is_break() {
            break Finish::Cancelled;
        }
        if step.stopped {
            break Finish::StopString;
        }
    };
    let finish = match finish {
        Finish::StopString | Finish::Cancelled => finish,
        other => {
            let last = stops.push(&decoder.finish()?);
            let rest = if last.stopped {
                last.text
            } else {
                last.text + &stops.finish()
            };
            // The text is complete: there is nothing left to cancel.
            let _ = pass_on(&rest);
            if last.stopped {
                Finish::StopString
            } else {
                other
            }
        }
    };
    let prefill = prefill.unwrap_or_else(|| start.elapsed());
    Ok(Generated {
        ids,
        text,
        finish,
        prompt_tokens: prompt.len(),
        reused_tokens,
        prefill,
        decode: start.elapsed() - prefill,
    })
}
