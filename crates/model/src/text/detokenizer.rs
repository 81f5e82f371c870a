use crate::{
    Error,
    text::{SpecialTokens, Tokenizer},
};

/// Longest run of replacement characters that more tokens can still turn into one character: a character has up to
/// four bytes, some decoders show each byte of an unfinished one.
const UNFINISHED: usize = 3;

/// Turns token ids into text as they come, never splitting a character.
///
/// A token can end inside a character, and what a token looks like can depend on its predecessor. So the decoder
/// decodes a short window of tokens again with each new one and passes on what is new, less what may still change.
/// All pieces together are the text that [`Tokenizer::decode`] gives.
pub struct Detokenizer<'t> {
    tokenizer: &'t Tokenizer,
    special: SpecialTokens,
    window: Vec<u32>,
    emitted: String,
}

impl<'t> Detokenizer<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, special: SpecialTokens) -> Self {
        Self {
            tokenizer,
            special,
            window: Vec::new(),
            emitted: String::new(),
        }
    }

    /// The text that `id` completes; empty while a character is unfinished.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        self.window.push(id);
        let decoded = self.decode(&self.window)?;
        let known = common(&self.emitted, &decoded);
        let unfinished = unfinished(&decoded[known..]);
        if known < self.emitted.len() && unfinished > 0 {
            // An unfinished character can spoil how the ones before it decode, until it is finished.
            return Ok(String::new());
        }
        let piece = decoded[known..decoded.len() - unfinished].to_owned();
        if unfinished > 0 {
            self.emitted.push_str(&piece);
        } else {
            self.advance(id, decoded)?;
        }
        Ok(piece)
    }

    /// What is left when no more tokens come: an unfinished character, as U+FFFD.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String, Error> {
        let decoded = self.decode(&self.window)?;
        let known = common(&self.emitted, &decoded);
        Ok(decoded[known..].to_owned())
    }

    /// Shortens the window to `id`, the context of what comes next, if `id` means the same alone.
    fn advance(&mut self, id: u32, decoded: String) -> Result<(), Error> {
        let alone = self.decode(&[id])?;
        if alone.is_empty() || alone.contains(char::REPLACEMENT_CHARACTER) {
            self.emitted = decoded;
        } else {
            self.window = vec![id];
            self.emitted = alone;
        }
        Ok(())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.tokenizer.decode(ids, self.special)
    }
}

/// Bytes at the end of `text` that may be part of an unfinished character.
fn unfinished(text: &str) -> usize {
    text.chars()
        .rev()
        .take(UNFINISHED)
        .take_while(|&c| c == char::REPLACEMENT_CHARACTER)
        .map(char::len_utf8)
        .sum()
}

/// Bytes of the longest beginning that `a` and `b` share.
fn common(a: &str, b: &str) -> usize {
    let shared = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    shared.map(|(c, _)| c.len_utf8()).sum()
}
