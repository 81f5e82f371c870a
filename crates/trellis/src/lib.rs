//! EXL3 trellis codes: codebooks, packing, tail-biting Viterbi and LDLQ.

mod bits;
mod codebook;
mod config;
pub mod decode;
mod encode;
mod error;
pub mod lanes;
mod ldlq;
mod packed;
mod refit;
mod regularize;
mod scale_search;
pub mod scales;
mod simd;
pub mod tile;
pub mod viterbi;

pub use bits::Bits;
pub use codebook::{Codebook, MCG_MULTIPLIER, MUL1_MULTIPLIER, MUL1_OFFSET, MUL1_SCALE};
pub use config::{EncodeConfig, EncodeReport, Encoded, Fallback, HessianMetric, OutScales};
pub use encode::encode_linear;
pub use error::Error;
pub use packed::{PackedLinear, PackedParts, Words};
pub use simd::SimdLevel;

/// States of the trellis: a 16-bit shift register.
pub const STATES: usize = 1 << 16;
/// Rows and columns of a tile; a tile is one tail-biting walk.
pub const TILE: usize = 16;
/// Weights of a tile, steps of its walk.
pub const TILE_WEIGHTS: usize = TILE * TILE;
