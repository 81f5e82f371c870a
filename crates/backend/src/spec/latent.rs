use super::{Rope, check_positive};
use crate::{Error, LinearShape};

/// Sizes of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1): keys and values of all heads are made of
/// one latent per token by a linear, the *expansion*, and only the latent is kept.
///
/// Rows of the expansion are head by head: [`nope_dim`](Self::nope_dim) for a head's key, then
/// [`value_dim`](Self::value_dim) for its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LatentSpec {
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Values of a query, and of a key made of the latent, that know no position.
    pub nope_dim: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Width of the latent.
    pub rank: usize,
    /// Positions. [`Rope::dims`] values of each query, behind those that know none, and as many that all keys of a token
    /// share, rotate.
    pub rope: Rope,
    /// Factor of the scores, before the softmax.
    pub scale: f32,
}

impl LatentSpec {
    /// Width of a head's query.
    pub fn query_dim(&self) -> usize {
        self.nope_dim + self.rope.dims
    }

    /// Values of a token that are kept: the latent, and the part of keys that rotates.
    pub fn cached_width(&self) -> usize {
        self.rank + self.rope.dims
    }

    /// The size of the expansion.
    pub fn expansion(&self) -> LinearShape {
        LinearShape {
            in_features: self.rank,
            out_features: self.heads * (self.nope_dim + self.value_dim),
        }
    }

    /// Checks that no size is zero and that an even number of values rotate.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the size that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        check_positive([
            ("heads", self.heads),
            ("values of a key without position", self.nope_dim),
            ("width of a value", self.value_dim),
            ("width of a latent", self.rank),
            ("rotated values of a key", self.rope.dims),
        ])?;
        Error::check_shape(
            "rotated values of a key, an even number",
            self.rope.dims.next_multiple_of(2),
            self.rope.dims,
        )
    }
}
