use std::path::{Path, PathBuf};

use crate::{Error, text::Detokenizer};

/// A tokenizer in the format of Hugging Face's `tokenizer.json`.
///
/// Special tokens written out in a text, like `<|im_end|>`, become their ids; none is added that is not written.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::File`], naming the file.
    pub fn open(checkpoint: &Path) -> Result<Self, Error> {
        let path = checkpoint.join("tokenizer.json");
        let bytes = read_optional(&path)?.ok_or_else(|| Error::Missing {
            path: path.clone(),
            purpose: "without a tokenizer a model can neither read nor write text",
        })?;
        Self::from_bytes(&bytes).map_err(|reason| Error::file(&path, reason))
    }

    fn from_bytes(json: &[u8]) -> Result<Self, tokenizers::Error> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
        // A file can ask for both; they are for training batches and would cut or lengthen prompts silently.
        inner.with_truncation(None)?.with_padding(None);
        Ok(Self { inner })
    }

    /// The token ids of `text`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the model of the tokenizer cannot express `text`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_inner(text, false)
    }

    /// The token ids of `text` with those around it that the file's post-processor adds, such as a leading
    /// beginning-of-sequence token.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_inner(text, true)
    }

    fn encode_inner(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, special).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`. Ids outside the vocabulary have none; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the file's decoder fails.
    pub fn decode(&self, ids: &[u32], special: SpecialTokens) -> Result<String, Error> {
        self.inner
            .decode(ids, special == SpecialTokens::Skip)
            .map_err(failed)
    }

    /// A decoder for ids that come one by one.
    pub fn stream(&self, special: SpecialTokens) -> Detokenizer<'_> {
        Detokenizer::new(self, special)
    }

    /// The id of a token, added tokens included.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of token ids, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// What decoding does with special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SpecialTokens {
    /// Leaves them out.
    #[default]
    Skip,
    /// Writes them out.
    Keep,
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}

/// The bytes of a file, `None` if there is none.
pub(super) fn read_optional(path: &PathBuf) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path, error)),
    }
}
