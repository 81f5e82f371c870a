//! Trellis-coded weights in the EXL3 format: encode linear layers at 1 to 8 bits per weight, and decode them.
//!
//! A linear is scaled, rotated by Hadamard transforms until its weights look like draws from a normal distribution, and
//! encoded tile by tile: 16×16 weights are a closed walk through the states of a 16-bit shift register, each of which stands for a
//! value. The method is QTIP (arXiv 2406.11235) with the rotations of QuIP# (arXiv 2402.04396); the format is ExLlamaV3's, and
//! what is written here loads there.
//!
//! - [`encode_linear`] makes a [`PackedLinear`] of a weight matrix and the second moment of its inputs, as [`EncodeConfig`] says,
//!   and reports how well that went;
//! - [`Preparation`] is what comes before and after the search for codes, for whoever makes them elsewhere;
//! - [`PackedLinear`] is the linear as a checkpoint holds it, its parts checked against each other; it gives its weights back in
//!   the original basis ([`PackedLinear::dequantize`]) or in the rotated one;
//! - [`lanes`] is what faster products are written with, which never decode a whole matrix.
//!
//! It reads and writes no files and knows no models. Its encoder runs on the current rayon pool, and its results do not depend on
//! the number of threads. Decoding and the search for walks give the same bits on every machine.
//!
//! ```
//! use nalgebra::DMatrix;
//! use treillage_trellis::{Bits, Codebook, EncodeConfig, encode_linear};
//!
//! let weights = DMatrix::from_fn(128, 128, |i, j| ((i * j * 7 + i * i + j) as f32).sin());
//! let config = EncodeConfig::new(Bits::new(3)?, Codebook::Mul1, 0);
//! let encoded = encode_linear(&weights, None, &config)?;
//!
//! // Three bits and a share of 256 scales for each weight.
//! assert_eq!(encoded.linear.byte_len(), 128 * 128 * 3 / 8 + 2 * 256);
//! let error = (encoded.linear.dequantize() - &weights).norm_squared() / weights.norm_squared();
//! assert!(error < 0.025);
//! assert!((encoded.report.relative_error - f64::from(error)).abs() < 1e-3);
//! # Ok::<(), treillage_trellis::Error>(())
//! ```
//!
//! # Modules
//! | module | |
//! |---|---|
//! | [`tile`] | the order of a tile's weights, and its words |
//! | [`decode`] | words to weights |
//! | [`lanes`] | the same, sixteen weights at a time, for kernels |
//! | [`scales`] | scales of older files |
//! | [`viterbi`] | the nearest closed walk to a tile of weights |

mod bits;
mod codebook;
mod config;
pub mod decode;
mod encode;
mod error;
pub mod lanes;
mod ldlq;
mod packed;
mod preparation;
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
pub use preparation::{Fitted, Preparation, ToFit, padded};
pub use regularize::ROTATION;
pub use simd::SimdLevel;

/// States of the trellis: a 16-bit shift register.
pub const STATES: usize = 1 << 16;
/// Rows and columns of a tile; a tile is one tail-biting walk.
pub const TILE: usize = 16;
/// Weights of a tile, steps of its walk.
pub const TILE_WEIGHTS: usize = TILE * TILE;
