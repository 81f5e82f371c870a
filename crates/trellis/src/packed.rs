use std::{fmt, sync::Arc};

use half::f16;

use crate::{Bits, Codebook, Error, TILE};

/// Packed words that someone else owns: a vector, or a window into a memory-mapped file.
pub type Words = Arc<dyn AsRef<[u16]> + Send + Sync>;

/// One linear layer in the EXL3 format: `W = diag(suh) · H · What · H · diag(svh)`, where `What` is the decoded
/// trellis and `H` the block-diagonal 128-point Hadamard matrix. `y = x W + bias`; both axes are padded to 128.
#[derive(Clone)]
pub struct PackedLinear {
    in_features: usize,
    out_features: usize,
    bits: Bits,
    codebook: Codebook,
    words: Words,
    suh: Vec<f16>,
    svh: Vec<f16>,
    bias: Option<Vec<f16>>,
}

/// The parts of a [`PackedLinear`], unchecked.
pub struct PackedParts {
    /// `[in/16, out/16, 16 K]` words, row-major.
    pub words: Words,
    /// The words' shape: tiles along the input axis, tiles along the output axis, words per tile.
    pub shape: [usize; 3],
    /// The function from states to weights.
    pub codebook: Codebook,
    /// Signed scale of each input channel.
    pub suh: Vec<f16>,
    /// Signed scale of each output channel.
    pub svh: Vec<f16>,
    /// Added to the output after everything else.
    pub bias: Option<Vec<f16>>,
}

impl PackedLinear {
    /// Checks the parts against each other and puts them together.
    ///
    /// # Errors
    /// [`Error::Bits`] or [`Error::Shape`], naming the part that does not fit.
    pub fn new(parts: PackedParts) -> Result<Self, Error> {
        let PackedParts {
            words,
            shape: [tiles_in, tiles_out, words_per_tile],
            codebook,
            suh,
            svh,
            bias,
        } = parts;
        let shape_error = |what, expected, found| {
            Err(Error::Shape {
                what,
                expected,
                found,
            })
        };
        if words_per_tile % 16 != 0 {
            return shape_error(
                "trellis words per tile",
                words_per_tile.next_multiple_of(16),
                words_per_tile,
            );
        }
        let bits = Bits::new(words_per_tile / 16)?;
        let (in_features, out_features) = (tiles_in * TILE, tiles_out * TILE);
        for (what, features) in [
            ("trellis rows", in_features),
            ("trellis columns", out_features),
        ] {
            if features == 0 || features % 128 != 0 {
                return shape_error(what, features.next_multiple_of(128).max(128), features);
            }
        }
        let expected = tiles_in * tiles_out * words_per_tile;
        if (*words).as_ref().len() != expected {
            return shape_error("trellis words", expected, (*words).as_ref().len());
        }
        if suh.len() != in_features {
            return shape_error("suh", in_features, suh.len());
        }
        if svh.len() != out_features {
            return shape_error("svh", out_features, svh.len());
        }
        if let Some(bias) = &bias
            && bias.len() != out_features
        {
            return shape_error("bias", out_features, bias.len());
        }
        Ok(Self {
            in_features,
            out_features,
            bits,
            codebook,
            words,
            suh,
            svh,
            bias,
        })
    }

    /// Input channels, padded to a multiple of 128.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Output channels, padded to a multiple of 128.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Bits per weight of the trellis.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// The function from states to weights.
    pub fn codebook(&self) -> Codebook {
        self.codebook
    }

    /// All packed words: tiles row-major (`[in/16, out/16]`), [`Bits::words_per_tile`] words each.
    pub fn words(&self) -> &[u16] {
        (*self.words).as_ref()
    }

    /// Shared ownership of the packed words.
    pub fn shared_words(&self) -> Words {
        Arc::clone(&self.words)
    }

    /// Shape of the stored tensor: `[in/16, out/16, 16 K]`.
    pub fn shape(&self) -> [usize; 3] {
        [
            self.in_features / TILE,
            self.out_features / TILE,
            self.bits.words_per_tile(),
        ]
    }

    /// Signed scale of each input channel.
    pub fn suh(&self) -> &[f16] {
        &self.suh
    }

    /// Signed scale of each output channel.
    pub fn svh(&self) -> &[f16] {
        &self.svh
    }

    /// Added to the output, if the layer has one.
    pub fn bias(&self) -> Option<&[f16]> {
        self.bias.as_deref()
    }

    /// Bytes of the words, scales and bias.
    pub fn byte_len(&self) -> usize {
        2 * (self.words().len()
            + self.suh.len()
            + self.svh.len()
            + self.bias.as_ref().map_or(0, Vec::len))
    }
}

impl fmt::Debug for PackedLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedLinear")
            .field("in_features", &self.in_features)
            .field("out_features", &self.out_features)
            .field("bits", &self.bits)
            .field("codebook", &self.codebook)
            .field("bias", &self.bias.is_some())
            .finish_non_exhaustive()
    }
}
