/// Why a backend could not load a weight or run an op.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two things that meet in an op do not fit.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// What was looked at.
        what: String,
        /// The size that would fit.
        expected: usize,
        /// The size it has.
        found: usize,
    },
    /// More tokens than a cache was made for.
    #[error(
        "the cache holds {capacity} tokens, {needed} are needed: raise --context or shorten the prompt"
    )]
    CacheFull {
        /// Tokens it can hold.
        capacity: usize,
        /// Tokens it would have to hold.
        needed: usize,
    },
    /// An op that this backend does not have.
    #[error("{0} does not run on this device: compute on the CPU (--device cpu)")]
    Unsupported(&'static str),
    /// A cache that was made for another op.
    #[error("the cache was not made for {0}")]
    WrongCache(&'static str),
    /// A token id outside the embedding table.
    #[error("token id {id} is outside the vocabulary of {vocabulary}")]
    Token {
        /// The id.
        id: u32,
        /// Rows of the table.
        vocabulary: usize,
    },
    /// An op found a value that is not finite.
    #[error("{0} is not finite")]
    NotFinite(String),
    /// Encoding a linear failed.
    #[error("cannot encode {linear}: {source}")]
    Encode {
        /// The job's name.
        linear: String,
        /// Why.
        source: treillage_trellis::Error,
    },
    /// A linear that cannot be quantized by groups.
    #[error("{linear} cannot be quantized: {source}")]
    EncodeGrouped {
        /// The job's name.
        linear: String,
        /// Why.
        source: treillage_gptq::Error,
    },
    /// Trellis codes are not what they should be.
    #[error(transparent)]
    Trellis(#[from] treillage_trellis::Error),
    /// Codes with a scale per group are not what they should be.
    #[error(transparent)]
    Grouped(#[from] treillage_gptq::Error),
    /// Gathering second moments failed.
    #[error(transparent)]
    Moments(#[from] treillage_linalg::Error),
    /// Routing tokens to experts failed.
    #[error(transparent)]
    Routing(#[from] treillage_moe::Error),
    /// Something the device or its driver reports.
    #[error("{0}")]
    Device(String),
}

impl Error {
    /// Whether an op met a value that is not finite.
    pub fn is_not_finite(&self) -> bool {
        matches!(
            self,
            Self::NotFinite(_) | Self::Routing(treillage_moe::Error::NotFinite { .. })
        )
    }

    /// Checks that `found` is `expected`.
    ///
    /// # Errors
    /// [`Error::Shape`] naming `what` if it is not.
    pub fn check_shape(
        what: impl Into<String>,
        expected: usize,
        found: usize,
    ) -> Result<(), Error> {
        if expected == found {
            Ok(())
        } else {
            Err(Error::Shape {
                what: what.into(),
                expected,
                found,
            })
        }
    }
}
