//! How well a model predicts a text, and how far it is from another model.
//!
//! A text is cut into windows that do not overlap; in each, every token after the first is predicted from those before
//! it in the window. Logits are read a few rows at a time, so memory does not grow with the text.

use std::ops::Range;

use rayon::prelude::*;
use serde::Serialize;
use treillage_backend::{Error as BackendError, Inference};

use crate::{Error, PREFILL_CHUNK, Session};

mod softmax;
use softmax::LogSoftmax;

/// How a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of a window.
    pub length: usize,
    /// Most windows to look at; `None` looks at all that the text fills.
    pub limit: Option<usize>,
}

impl Windows {
    fn cut<'t>(&self, tokens: &'t [u32]) -> Result<Vec<&'t [u32]>, Error> {
        if self.length < 2 {
            return Err(Error::ShortWindow(self.length));
        }
        let windows: Vec<_> = tokens
            .chunks_exact(self.length)
            .take(self.limit.unwrap_or(usize::MAX))
            .collect();
        if windows.is_empty() {
            return Err(Error::ShortText {
                tokens: tokens.len(),
                window: self.length,
            });
        }
        Ok(windows)
    }
}

/// How far an evaluation has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Windows done.
    pub done: usize,
    /// Windows in all.
    pub windows: usize,
    /// The model's perplexity over the windows done.
    pub perplexity: f64,
}

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// Windows looked at.
    pub windows: usize,
    /// Tokens predicted.
    pub scored: usize,
    /// Mean negative log-likelihood of a token, in nats.
    pub nll: f64,
    /// `exp(nll)`.
    pub perplexity: f64,
}

impl Perplexity {
    /// From the sum of all negative log-likelihoods.
    fn new(windows: usize, scored: usize, sum: f64) -> Result<Self, Error> {
        if !sum.is_finite() {
            return Err(Error::NotFinite);
        }
        let nll = sum / scored as f64;
        Ok(Self {
            windows,
            scored,
            nll,
            perplexity: nll.exp(),
        })
    }
}

/// How far a model is from its reference on a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The model itself.
    pub model: Perplexity,
    /// The reference.
    pub reference: Perplexity,
    /// Mean Kullback–Leibler divergence of a token's distribution, `Σ p_ref (ln p_ref - ln p_model)` over the whole
    /// vocabulary, in nats.
    pub kl_divergence: f64,
    /// Share of tokens for which both models find the same one most probable.
    pub top1_agreement: f64,
}

/// The perplexity of the session's model on `tokens`. Whatever the session has read is forgotten.
///
/// # Errors
/// If the text does not fill a window, the windows do not fit the session, or the model fails.
pub fn perplexity<B: Inference>(
    session: &mut Session<'_, B>,
    tokens: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(Progress),
) -> Result<Perplexity, Error> {
    let vocabulary = session.model().vocabulary();
    each_chunk(tokens, vocabulary, windows, progress, |chunk| {
        if chunk.opens_window {
            session.truncate(0);
        }
        session.guarded(|session| {
            let hidden = session.read_piece(chunk.inputs)?;
            let mut nll = 0.0;
            for rows in row_pieces(chunk.targets.len(), vocabulary) {
                let logits = session.logits(&hidden, rows.clone())?;
                let losses: Vec<f64> = logits
                    .par_chunks_exact(vocabulary)
                    .zip(&chunk.targets[rows])
                    .map(|(row, &target)| LogSoftmax::new(row).nll(target))
                    .collect();
                nll += losses.iter().sum::<f64>();
            }
            Ok(nll)
        })
    })
}

/// Mean Kullback–Leibler divergence `Σ p_ref (ln p_ref - ln p)` of the distributions that rows of logits stand for, in nats.
/// `logits` and those of the `reference` are row-major with `vocabulary` values a row, as many rows of both.
pub fn mean_divergence(reference: &[f32], logits: &[f32], vocabulary: usize) -> f64 {
    let rows = reference
        .par_chunks_exact(vocabulary)
        .zip(logits.par_chunks_exact(vocabulary));
    let each: Vec<f64> = rows
        .map(|(reference, row)| LogSoftmax::new(reference).divergence(&LogSoftmax::new(row)))
        .collect();
    // Collected first, so that the sum does not depend on the number of threads.
    each.iter().sum::<f64>() / each.len() as f64
}

/// The distance of the session's model from `reference`, which predicts the same tokens. Whatever the two sessions
/// have read is forgotten.
///
/// # Errors
/// As [`perplexity`], and [`Error::Vocabulary`] if the two models have not the same number of token ids.
pub fn compare<B: Inference, R: Inference>(
    session: &mut Session<'_, B>,
    reference: &mut Session<'_, R>,
    tokens: &[u32],
    windows: Windows,
    progress: &mut dyn FnMut(Progress),
) -> Result<Comparison, Error> {
    check_vocabularies(session, reference)?;
    let vocabulary = session.model().vocabulary();
    let (mut reference_nll, mut divergence, mut agreements) = (0.0, 0.0, 0);
    let model = each_chunk(tokens, vocabulary, windows, progress, |chunk| {
        if chunk.opens_window {
            session.truncate(0);
            reference.truncate(0);
        }
        let reference_hidden = reference.forward(chunk.inputs)?;
        let scores = session.guarded(|session| {
            let hidden = session.read_piece(chunk.inputs)?;
            let mut scores = Vec::with_capacity(chunk.targets.len());
            for rows in row_pieces(chunk.targets.len(), vocabulary) {
                let logits = session.logits(&hidden, rows.clone())?;
                let reference_logits = reference.logits(&reference_hidden, rows.clone())?;
                let piece = logits
                    .par_chunks_exact(vocabulary)
                    .zip(reference_logits.par_chunks_exact(vocabulary))
                    .zip(&chunk.targets[rows]);
                let piece = piece
                    .map(|((model, reference), &target)| TokenScore::new(model, reference, target));
                scores.extend(piece.collect::<Vec<_>>());
            }
            Ok(scores)
        })?;
        let mut nll = 0.0;
        for score in scores {
            nll += score.nll;
            reference_nll += score.reference_nll;
            divergence += score.divergence;
            agreements += usize::from(score.agrees);
        }
        Ok(nll)
    })?;
    if !f64::is_finite(divergence) {
        return Err(Error::NotFinite);
    }
    Ok(Comparison {
        model,
        reference: Perplexity::new(model.windows, model.scored, reference_nll)?,
        kl_divergence: divergence / model.scored as f64,
        top1_agreement: agreements as f64 / model.scored as f64,
    })
}

/// How far the logits of one session are from those of another that reads the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Deviation {
    /// Tokens read, one by one.
    pub tokens: usize,
    /// Root mean square of the difference of the logits, relative to that of the reference's logits.
    pub relative_rms: f64,
    /// Mean Kullback–Leibler divergence from the reference, in nats per token.
    pub kl_divergence: f64,
    /// Share of tokens after which both find the same one most probable.
    pub top1_agreement: f64,
}

/// The deviation of `session` from `reference` over `tokens`, read one by one as in generation: how much a faster way
/// to compute the same model costs. Whatever the two sessions have read is forgotten.
///
/// # Errors
/// [`Error::EmptyPrompt`] if there are no tokens, [`Error::Vocabulary`] as [`compare`], and if the tokens do not fit
/// the sessions or a model fails.
pub fn deviation<B: Inference, R: Inference>(
    session: &mut Session<'_, B>,
    reference: &mut Session<'_, R>,
    tokens: &[u32],
) -> Result<Deviation, Error> {
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    check_vocabularies(session, reference)?;
    session.truncate(0);
    reference.truncate(0);
    let (mut difference, mut magnitude, mut divergence, mut agreements) = (0.0, 0.0, 0.0, 0);
    for &token in tokens {
        let (logits, exact) = (session.extend(&[token])?, reference.extend(&[token])?);
        for (&logit, &exact) in logits.iter().zip(&exact) {
            difference += f64::from(logit - exact).powi(2);
            magnitude += f64::from(exact).powi(2);
        }
        let (logits, exact) = (LogSoftmax::new(&logits), LogSoftmax::new(&exact));
        divergence += exact.divergence(&logits);
        agreements += usize::from(logits.top() == exact.top());
    }
    if !f64::is_finite(difference + magnitude + divergence) {
        return Err(Error::NotFinite);
    }
    Ok(Deviation {
        tokens: tokens.len(),
        relative_rms: if difference == 0.0 {
            0.0
        } else {
            (difference / magnitude).sqrt()
        },
        kl_divergence: divergence / tokens.len() as f64,
        top1_agreement: agreements as f64 / tokens.len() as f64,
    })
}

/// Fails unless both models have the same number of token ids.
fn check_vocabularies<B: Inference, R: Inference>(
    session: &Session<'_, B>,
    reference: &Session<'_, R>,
) -> Result<(), Error> {
    let (model, reference) = (session.model().vocabulary(), reference.model().vocabulary());
    if model == reference {
        Ok(())
    } else {
        Err(Error::Vocabulary { model, reference })
    }
}

/// Tokens that go through the model together: part of one window.
struct Chunk<'t> {
    inputs: &'t [u32],
    /// The token after each input.
    targets: &'t [u32],
    opens_window: bool,
}

/// Adds up the negative log-likelihoods that `score` gives for each chunk of each window.
fn each_chunk(
    tokens: &[u32],
    vocabulary: usize,
    windows: Windows,
    progress: &mut dyn FnMut(Progress),
    mut score: impl FnMut(Chunk<'_>) -> Result<f64, Error>,
) -> Result<Perplexity, Error> {
    if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocabulary) {
        return Err(BackendError::Token { id, vocabulary }.into());
    }
    let windows = windows.cut(tokens)?;
    let (mut scored, mut nll) = (0, 0.0);
    for (index, window) in windows.iter().enumerate() {
        let (inputs, targets) = (&window[..window.len() - 1], &window[1..]);
        let chunks = inputs
            .chunks(PREFILL_CHUNK)
            .zip(targets.chunks(PREFILL_CHUNK));
        for (at, (inputs, targets)) in chunks.enumerate() {
            nll += score(Chunk {
                inputs,
                targets,
                opens_window: at == 0,
            })?;
        }
        scored += targets.len();
        progress(Progress {
            done: index + 1,
            windows: windows.len(),
            perplexity: Perplexity::new(index + 1, scored, nll)?.perplexity,
        });
    }
    Perplexity::new(windows.len(), scored, nll)
}

/// Ranges that cover `rows` rows of logits, a bounded number of values each.
fn row_pieces(rows: usize, vocabulary: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (LOGITS_AT_ONCE / vocabulary.max(1)).max(1);
    (0..rows)
        .step_by(step)
        .map(move |first| first..(first + step).min(rows))
}

/// Logits read from the backend in one piece: 64 MiB of them.
const LOGITS_AT_ONCE: usize = 1 << 24;

/// What one predicted token adds to a [`Comparison`].
struct TokenScore {
    nll: f64,
    reference_nll: f64,
    divergence: f64,
    agrees: bool,
}

impl TokenScore {
    fn new(model: &[f32], reference: &[f32], target: u32) -> Self {
        let (model, reference) = (LogSoftmax::new(model), LogSoftmax::new(reference));
        Self {
            nll: model.nll(target),
            reference_nll: reference.nll(target),
            divergence: reference.divergence(&model),
            agrees: model.top() == reference.top(),
        }
    }
}

#[cfg(test)]
mod tests;
