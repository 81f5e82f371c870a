//! Reading a prompt and decoding from it, as `generate` does.

use std::time::Instant;

use anyhow::Result;
use treillage_backend::{Choice, Inference};
use treillage_benches::timing::Timings;
use treillage_model::{Model, Session};
use treillage_report::results::Path;

/// Numbers of tokens.
#[derive(Clone, Copy)]
pub(super) struct Lengths {
    pub(super) prompt: usize,
    /// To decode.
    pub(super) tokens: usize,
    /// Of a prompt that is only read.
    pub(super) long: Option<usize>,
}

/// A session to measure in, again and again from its start.
pub(super) struct Rounds<'m, B: Inference> {
    session: Session<'m, B>,
    prompt: Vec<u32>,
    long: Option<Vec<u32>>,
    tokens: usize,
}

/// Seconds.
pub(super) struct Measured {
    /// Of reading the prompt, until its first token is known.
    pub(super) prefill: Timings,
    /// Of reading the long prompt.
    pub(super) long: Option<Timings>,
    /// Of decoding all tokens.
    pub(super) decode: Timings,
    /// From one token to the next.
    pub(super) steps: Timings,
    /// Until the host had asked for a token. On a device that does not run behind, that is all of the work.
    pub(super) recording: Timings,
    /// For which the host then waited for the token before it.
    pub(super) waiting: Timings,
}

/// Seconds of each token of one or more rounds.
#[derive(Default)]
pub(super) struct Steps {
    steps: Vec<f64>,
    recording: Vec<f64>,
    waiting: Vec<f64>,
}

/// Seconds of all rounds of one path.
#[derive(Default)]
struct Seconds {
    prefill: Vec<f64>,
    long: Vec<f64>,
    decode: Vec<f64>,
    each: Steps,
}

impl Seconds {
    fn sorted(self) -> Measured {
        Measured {
            prefill: Timings::sorted(self.prefill),
            long: (!self.long.is_empty()).then(|| Timings::sorted(self.long)),
            decode: Timings::sorted(self.decode),
            steps: Timings::sorted(self.each.steps),
            recording: Timings::sorted(self.each.recording),
            waiting: Timings::sorted(self.each.waiting),
        }
    }
}

impl<'m, B: Inference> Rounds<'m, B> {
    pub(super) fn new(backend: &'m B, model: &'m Model<B>, lengths: Lengths) -> Result<Self> {
        let Lengths {
            prompt,
            tokens,
            long,
        } = lengths;
        let vocabulary = model.vocabulary() as u32;
        let ids = |count: usize| (1..=count as u32).map(|i| i.wrapping_mul(997) % vocabulary);
        let capacity = (prompt + tokens).max(long.unwrap_or(0));
        Ok(Self {
            session: model.session(backend, capacity)?,
            prompt: ids(prompt).collect(),
            long: long.map(|count| ids(count).collect()),
            tokens,
        })
    }

    /// One round of each path unmeasured, then `repeats` of each, in turn, so that whatever else the machine does falls on all of them.
    /// `take` makes the backend take a path.
    pub(super) fn measure(
        &mut self,
        repeats: usize,
        paths: &[Path],
        take: impl Fn(&B, Path),
    ) -> Result<Vec<Measured>> {
        let mut all: Vec<Seconds> = paths.iter().map(|_| Seconds::default()).collect();
        for round in 0..=repeats {
            for (path, all) in paths.iter().zip(&mut all) {
                take(self.session.backend(), *path);
                let (seconds, first) = self.read_prompt()?;
                let start = Instant::now();
                let steps = self.decode(first)?;
                let decoded = start.elapsed().as_secs_f64();
                let read = self.read_long()?;
                if round > 0 {
                    all.prefill.push(seconds);
                    all.decode.push(decoded);
                    all.long.extend(read);
                    all.each.steps.extend(steps.steps);
                    all.each.recording.extend(steps.recording);
                    all.each.waiting.extend(steps.waiting);
                }
            }
        }
        Ok(all.into_iter().map(Seconds::sorted).collect())
    }

    /// Starts over with the prompt. Gives the seconds until the first token was known, and the token.
    pub(super) fn read_prompt(&mut self) -> Result<(f64, B::Tokens)> {
        read(&mut self.session, &self.prompt)
    }

    /// Starts over with the long prompt, if there is one, and gives the seconds that it took.
    pub(super) fn read_long(&mut self) -> Result<Option<f64>> {
        Ok(match &self.long {
            Some(long) => Some(read(&mut self.session, long)?.0),
            None => None,
        })
    }

    /// Decodes after `first`. Where the backend runs behind, the next token is asked for before the last one is read.
    pub(super) fn decode(&mut self, first: B::Tokens) -> Result<Steps> {
        let session = &mut self.session;
        let backend = session.backend();
        let mut steps = Steps::default();
        let mut last = Instant::now();
        let mut ask = |token: &B::Tokens, recording: &mut Vec<f64>| -> Result<B::Tokens> {
            let start = Instant::now();
            let next = session.follow(token, &Choice::GREEDY)?;
            recording.push(start.elapsed().as_secs_f64());
            Ok(next)
        };
        let mut token = ask(&first, &mut steps.recording)?;
        for left in (0..self.tokens).rev() {
            let ahead = match left > 0 && backend.runs_behind() {
                true => Some(ask(&token, &mut steps.recording)?),
                false => None,
            };
            let asked = Instant::now();
            backend.read_tokens(&token)?;
            let now = Instant::now();
            steps.waiting.push((now - asked).as_secs_f64());
            steps.steps.push((now - last).as_secs_f64());
            last = now;
            token = match ahead {
                Some(next) => next,
                None if left > 0 => ask(&token, &mut steps.recording)?,
                None => break,
            };
        }
        Ok(steps)
    }

    /// Tokens that a round decodes.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }
}

fn read<B: Inference>(session: &mut Session<'_, B>, prompt: &[u32]) -> Result<(f64, B::Tokens)> {
    session.truncate(0);
    let start = Instant::now();
    let first = session.extend_and_choose(prompt, &Choice::GREEDY)?;
    session.backend().read_tokens(&first)?;
    Ok((start.elapsed().as_secs_f64(), first))
}
