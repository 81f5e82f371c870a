//! What an op computes, by its sizes.

mod delta;
mod latent;

pub use delta::{DeltaSpec, DeltaWeights};
pub use latent::LatentSpec;

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
    /// `2i` with `2i + 1`.
    Interleaved,
}

/// How tokens of a sequence learn of those before them: what a cache is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MixerSpec {
    /// Attention to keys and values: [`Inference::attention`](crate::Inference::attention).
    Attention(AttentionSpec),
    /// Attention to a compressed cache: [`Inference::latent_attention`](crate::Inference::latent_attention).
    Latent(LatentSpec),
    /// A recurrent state: [`Inference::delta_rule`](crate::Inference::delta_rule).
    Delta(DeltaSpec),
}

impl MixerSpec {
    /// Checks the sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the size that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        match self {
            MixerSpec::Attention(spec) => spec.check(),
            MixerSpec::Latent(spec) => spec.check(),
            MixerSpec::Delta(spec) => spec.check(),
        }
    }
}

/// Fails on the first of `sizes` that is zero.
fn check_positive<const N: usize>(sizes: [(&str, usize); N]) -> Result<(), Error> {
    for (what, size) in sizes {
        Error::check_shape(what, size.max(1), size)?;
    }
    Ok(())
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
    /// Whether each query head is followed by a gate of its width: the head's output is multiplied by the gate's sigmoid
    /// (Gated Attention, arXiv 2505.06708).
    pub output_gate: bool,
}

impl AttentionSpec {
    /// Width of queries, with their gates.
    pub fn query_width(&self) -> usize {
        let gates = if self.output_gate { 2 } else { 1 };
        self.heads * self.head_dim * gates
    }

    /// Checks that no size is zero, that key heads divide query heads, and that an even number of a head's values rotate.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the size that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        check_positive([
            ("query heads", self.heads),
            ("key heads", self.kv_heads),
            ("width of a head", self.head_dim),
        ])?;
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
