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
    /// then is as before.
    pub fn extend(&mut self, ids: &[u32]) -> Result<Vec<f32>, Error> {
        let (hidden, rows) = self.read_chunks(ids)?;
        self.logits(&hidden, rows - 1..rows)
    }

    /// As [`extend`](Self::extend), but lets the backend choose the token after the last.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn extend_and_choose(&mut self, ids: &[u32], choice: &Choice) -> Result<B::Tokens, Error> {
        let (hidden, rows) = self.read_chunks(ids)?;
        let last = self.backend.select_rows(&hidden, &[rows - 1])?;
        self.choose(&last, choice)
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
            last = self.forward(chunk).map(|hidden| (hidden, chunk.len()));
            if last.is_err() {
                self.truncate(before);
                break;
            }
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
        let result = self.forward_inner(ids);
        match result {
            Ok(_) => self.tokens.extend(ids),
            // Some caches may have taken the tokens already.
            Err(_) => _ = self.truncate(before),
        }
        result
    }

    fn forward_inner(&mut self, ids: &[u32]) -> Result<B::Tensor, Error> {
        let x = self.model.embedding.forward(self.backend, ids)?;
        // To go back to. A copy of all states for every single token would cost as much as the token.
        if ids.len() > 1 {
            for cache in &mut self.caches {
                self.backend.mark_cache(cache)?;
            }
        }
        self.blocks(x)
    }

    fn blocks(&mut self, mut x: B::Tensor) -> Result<B::Tensor, Error> {
        for (index, (block, cache)) in (self.model.blocks.iter().zip(&mut self.caches)).enumerate()
        {
            self.backend.enter_block(index);
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
