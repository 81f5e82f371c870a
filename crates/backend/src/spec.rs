use crate::Error;

/// Rotary position embedding (RoFormer, arXiv 2104.09864) over the first [`Rope::dims`] values of each head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: `theta^(-2i/dims)`.
    pub theta: f64,
    /// Values of a head that rotate; the rest pass through.
    pub dims: usize,
    /// Which values form a pair.
    pub pairing: RopePairing,
}

/// Which values of a head [`Rope`] rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// `i` with `i + dims/2`.
    HalfSplit,
}

/// Sizes of grouped-query attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `h` reads number `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of each head.
    pub head_dim: usize,
    /// Factor of the scores, before the softmax.
    pub scale: f32,
    /// Positions.
    pub rope: Rope,
}

impl AttentionSpec {
    /// Checks that no size is zero, that key heads divide query heads, and that an even number of a head's values rotate.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the size that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        let sizes = [
            ("query heads", self.heads),
            ("key heads", self.kv_heads),
            ("width of a head", self.head_dim),
        ];
        for (what, size) in sizes {
            Error::check_shape(what, size.max(1), size)?;
        }
        Error::check_shape(
            format!("query heads over {} key heads", self.kv_heads),
            self.heads.next_multiple_of(self.kv_heads),
            self.heads,
        )?;
        Error::check_shape(
            "rotated values of a head, an even number",
            self.rope.dims.next_multiple_of(2).min(self.head_dim & !1),
            self.rope.dims,
        )
    }
}
