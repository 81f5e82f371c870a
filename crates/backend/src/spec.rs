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
