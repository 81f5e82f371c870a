use std::path::{Path, PathBuf};

/// Why a model could not be loaded, run or judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint could not be read, or lacks something.
    #[error(transparent)]
    Checkpoint(#[from] treillage_checkpoint::Error),
    /// A tensor does not fit the model, or the backend refuses it.
    #[error("{name}: {source}")]
    Weight {
        /// The tensor, or the prefix of the linear.
        name: String,
        /// What is wrong with it.
        source: treillage_backend::Error,
    },
    /// The backend could not run an op.
    #[error(transparent)]
    Backend(#[from] treillage_backend::Error),
    /// A file of the checkpoint that text needs is not there.
    #[error("{path}: no such file; {purpose}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What cannot be done without it.
        purpose: &'static str,
    },
    /// A file of the checkpoint that text needs is damaged.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer could not encode or decode.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template could not be rendered, or refused the conversation.
    #[error("chat template: {0}")]
    Template(String),
    /// A sampling option outside its range.
    #[error("{option}: {value} is not {range}")]
    Sampling {
        /// The option.
        option: &'static str,
        /// What it was set to.
        value: f32,
        /// Its legal values.
        range: &'static str,
    },
    /// The model produced a value that is not finite, or none that could be chosen.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// Nothing to run the model on.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A text too short to judge a model by.
    #[error(
        "the text has {tokens} tokens, one window needs {window}: use a longer text or a shorter --context"
    )]
    ShortText {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// Windows in which no token has a predecessor.
    #[error("a window of {0} tokens scores nothing: at least 2 are needed")]
    ShortWindow(usize),
    /// Two models that cannot be compared.
    #[error("the model has {model} token ids, its reference {reference}")]
    Vocabulary {
        /// Ids of the model.
        model: usize,
        /// Ids of the reference.
        reference: usize,
    },
}

impl Error {
    /// Whether the model met a value that is not finite.
    pub fn is_not_finite(&self) -> bool {
        match self {
            Self::NotFinite => true,
            Self::Backend(error) => error.is_not_finite(),
            _ => false,
        }
    }

    pub(crate) fn weight(name: &str) -> impl FnOnce(treillage_backend::Error) -> Error + '_ {
        move |source| Error::Weight {
            name: name.to_owned(),
            source,
        }
    }

    pub(crate) fn file(path: &Path, reason: impl ToString) -> Error {
        Error::File {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}
