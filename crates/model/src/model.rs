use std::ops::Range;

use treillage_backend::{Choice, Error as BackendError, Inference};
use treillage_checkpoint::ModelConfig;

use crate::{Block, Embedding, Error, Head, Weights};

/// Most tokens whose logits are all asked for at once: memory is bounded by it, not by the text.
pub const PREFILL_CHUNK: usize = 512;

/// A language model on a backend.
pub struct Model<B: Inference> {
    embedding: Embedding<B>,
    blocks: Vec<Block<B>>,
    head: Head<B>,
}

impl<B: Inference> Model<B> {
    /// Loads all weights of the model that `config` describes.
    ///
    /// # Errors
    /// If the config is not one that this crate runs, or a weight is missing or does not fit; the message names it.
    pub fn load(backend: &B, weights: &dyn Weights, config: &ModelConfig) -> Result<Self, Error> {
        Ok(Self {
            embedding: Embedding::load(backend, weights, config)?,
            blocks: (0..config.num_layers)
                .map(|index| Block::load(backend, weights, config, index))
                .collect::<Result<_, _>>()?,
            head: Head::load(backend, weights, config)?,
        })
    }

    /// Number of token ids: the width of its logits.
    pub fn vocabulary(&self) -> usize {
        self.head.vocabulary()
    }

    /// A sequence of up to `capacity` tokens, empty.
    ///
    /// # Errors
    /// If the backend has no room for its caches.
    pub fn session<'m>(&'m self, backend: &'m B, capacity: usize) -> Result<Session<'m, B>, Error> {
        Ok(Session {
            backend,
            model: self,
            caches: self
                .blocks
                .iter()
                .map(|block| block.new_cache(backend, capacity))
                .collect::<Result<_, _>>()?,
            tokens: Vec::new(),
            unread: 0,
            capacity,
        })
    }
}

/// One sequence of tokens that a [`Model`] has read, with what its layers keep of them.
///
/// Keys, values and latents can be taken back token by token. A recurrent state cannot: a model that has one goes back to
/// where the last chunk of several tokens began, or to the beginning.
pub struct Session<'m, B: Inference> {
    backend: &'m B,
    model: &'m Model<B>,
    caches: Vec<B::Cache>,
    tokens: Vec<u32>,
    /// Tokens after those that the model has read but the host has not.
    unread: usize,
    capacity: usize,
}

impl<'m, B: Inference> Session<'m, B> {
    /// The model that reads.
    pub fn model(&self) -> &'m Model<B> {
        self.model
    }

    /// What the model runs on.
    pub fn backend(&self) -> &'m B {
        self.backend
    }

    /// Tokens read.
    pub fn len(&self) -> usize {
        self.tokens.len() + self.unread
    }

    /// Whether no token was read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most tokens that it can read.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all but the first `len` tokens, and of them those that come after a point that a recurrent state can go back
    /// to. Gives how many remain.
    pub fn truncate(&mut self, len: usize) -> usize {
        let mut kept = self.len().min(len);
        loop {
            let caches = self.caches.iter_mut();
            let lens = caches.map(|cache| self.backend.truncate_cache(cache, kept));
            // The layer that keeps least decides for all.
            match lens.min() {
                Some(least) if least < kept => kept = least,
                _ => break,
            }
        }
        self.unread = self.unread.min(kept.saturating_sub(self.tokens.len()));
        self.tokens.truncate(kept);
        kept
    }

    /// Forgets whatever is not a beginning of `prompt`, of that the last token, whose logits it does not keep, and more if
    /// it [has to](Self::truncate). Returns how many tokens of `prompt` remain read.
    pub fn rewind(&mut self, prompt: &[u32]) -> usize {
        let common = self
            .tokens
            .iter()
            .zip(prompt)
            .take_while(|(a, b)| a == b)
            .count();
        self.truncate(common.min(prompt.len().saturating_sub(1)))
    }

    /// Reads `ids`, [`Inference::prompt_rows`] at a time, and gives the logits of the token after the last of them.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`] if there are none; if they are outside the vocabulary or do not fit the session, which
    /// then is as before. And if a value is not finite, also when it is [computed again](Inference::recover); then tokens may be
    /// forgotten: see [`len`](Self::len).
    pub fn extend(&mut self, ids: &[u32]) -> Result<Vec<f32>, Error> {
        self.guarded(|session| {
            let (hidden, rows) = session.read_chunks(ids)?;
            session.logits(&hidden, rows - 1..rows)
        })
    }

    /// As [`extend`](Self::extend), but lets the backend choose the token after the last.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn extend_and_choose(&mut self, ids: &[u32], choice: &Choice) -> Result<B::Tokens, Error> {
        self.guarded(|session| session.read_and_choose(ids, choice))
    }

    /// Chooses a token once more, which could not be read for a value that is not finite, as `failure` says: from token `from` on,
    /// those it was chosen after are read again, on the reference path. What the model read before the host is forgotten.
    ///
    /// # Errors
    /// `failure`, if that is not finite either; then tokens may be forgotten, see [`len`](Self::len). And if the backend fails.
    pub fn choose_again(
        &mut self,
        failure: Error,
        from: usize,
        choice: &Choice,
    ) -> Result<u32, Error> {
        let ids = self.tokens[from..].to_vec();
        self.again(failure, from, |session| {
            let tokens = session.read_and_choose(&ids, choice)?;
            let ids = session.backend.read_tokens(&tokens)?;
            ids.first().copied().ok_or(Error::NotFinite)
        })
    }

    fn read_and_choose(&mut self, ids: &[u32], choice: &Choice) -> Result<B::Tokens, Error> {
        let (hidden, rows) = self.read_chunks(ids)?;
        let last = self.backend.select_rows(&hidden, &[rows - 1])?;
        self.choose(&last, choice)
    }

    /// Runs `run`, which reads tokens and looks at what comes of it. Where that is not finite, it is done once more on the backend's
    /// [reference path](Inference::recover). All tokens of `run` are read again, not one block of one piece: a backend that runs
    /// behind tells of it when the blocks after it have run too.
    pub(crate) fn guarded<T>(
        &mut self,
        run: impl Fn(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let before = self.len();
        match run(self) {
            Err(error) if error.is_not_finite() => self.again(error, before, run),
            Err(error) => {
                // Some caches may have taken tokens already.
                self.truncate(before);
                Err(error)
            }
            result => result,
        }
    }

    /// Goes back to the first `before` tokens and runs `run` on the reference path. If that meets a value that is not finite, what
    /// the caches hold may be to blame: they are filled anew, once.
    fn again<T>(
        &mut self,
        failure: Error,
        before: usize,
        run: impl Fn(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(known) = self.tokens.get(..before).map(<[u32]>::to_vec) else {
            // Some of them the host does not know yet.
            self.truncate(before);
            return Err(failure);
        };
        for from in [before, 0] {
            let kept = self.truncate(from);
            let backend = self.backend;
            let result = backend.recover(|| {
                if kept < before {
                    self.read_chunks(&known[kept..])?;
                }
                run(self)
            });
            match result {
                Err(error) if error.is_not_finite() => {
                    if kept == 0 {
                        break;
                    }
                }
                result => return result,
            }
        }
        self.truncate(before);
        Err(failure)
    }

    /// Reads the single token that the backend has chosen, before the host knows it, and lets it choose the next. What
    /// it was is to be [told](Self::tell) later.
    ///
    /// # Errors
    /// If it does not fit the session, which then is as before, or the backend fails; then some tokens may be forgotten.
    pub fn follow(&mut self, token: &B::Tokens, choice: &Choice) -> Result<B::Tokens, Error> {
        let before = self.len();
        let embedding = &self.model.embedding;
        let read = embedding
            .follow(self.backend, token)
            .and_then(|x| self.blocks(x));
        match read {
            Ok(hidden) => {
                self.unread += 1;
                self.choose(&hidden, choice)
            }
            Err(error) => {
                self.truncate(before);
                Err(error)
            }
        }
    }

    /// Says what the oldest token was that the model read before the host.
    ///
    /// # Panics
    /// If there is none.
    pub fn tell(&mut self, id: u32) {
        assert!(self.unread > 0, "a token was told that nobody waits for");
        self.unread -= 1;
        self.tokens.push(id);
    }

    fn choose(&self, hidden: &B::Tensor, choice: &Choice) -> Result<B::Tokens, Error> {
        let logits = self.model.head.forward(self.backend, hidden)?;
        Ok(self.backend.sample(&logits, choice)?)
    }

    /// Reads `ids` and gives the hidden states of the last chunk, and its rows.
    fn read_chunks(&mut self, ids: &[u32]) -> Result<(B::Tensor, usize), Error> {
        let before = self.len();
        let needed = before + ids.len();
        if needed > self.capacity {
            let capacity = self.capacity;
            return Err(BackendError::CacheFull { capacity, needed }.into());
        }
        let mut last = Err(Error::EmptyPrompt);
        for chunk in ids.chunks(self.backend.prompt_rows()) {
            last = Ok((self.read_piece(chunk)?, chunk.len()));
        }
        last
    }

    /// Reads `ids`, all at once, and gives their hidden states after the last block, for [`logits`](Self::logits).
    /// Memory grows with their number: pass [`PREFILL_CHUNK`] at a time.
    ///
    /// # Errors
    /// If they are outside the vocabulary or do not fit the session, which then is as before. If the backend fails in the
    /// midst of it, a single token may take others with it where there is a recurrent state: see [`len`](Self::len).
    pub fn forward(&mut self, ids: &[u32]) -> Result<B::Tensor, Error> {
        let before = self.len();
        let result = self.read_piece(ids);
        if result.is_err() {
            self.truncate(before);
        }
        result
    }

    /// As [`forward`](Self::forward), but an error leaves the caches as they are.
    pub(crate) fn read_piece(&mut self, ids: &[u32]) -> Result<B::Tensor, Error> {
        let x = self.model.embedding.forward(self.backend, ids)?;
        // To go back to. A copy of all states for every single token would cost as much as the token.
        if ids.len() > 1 {
            for cache in &mut self.caches {
                self.backend.mark_cache(cache)?;
            }
        }
        let hidden = self.blocks(x)?;
        self.tokens.extend(ids);
        Ok(hidden)
    }

    fn blocks(&mut self, mut x: B::Tensor) -> Result<B::Tensor, Error> {
        for (block, cache) in self.model.blocks.iter().zip(&mut self.caches) {
            x = block.forward(self.backend, &x, cache)?;
        }
        Ok(x)
    }

    /// The logits after rows `rows` of `hidden`, row-major, [`Model::vocabulary`] a row.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn logits(&self, hidden: &B::Tensor, rows: Range<usize>) -> Result<Vec<f32>, Error> {
        let rows: Vec<usize> = rows.collect();
        let hidden = self.backend.select_rows(hidden, &rows)?;
        let logits = self.model.head.forward(self.backend, &hidden)?;
        let logits = self.backend.read(&logits)?;
        BackendError::check_shape("logits", rows.len() * self.model.vocabulary(), logits.len())?;
        Ok(logits)
    }
}

#[cfg(test)]
mod tests;
