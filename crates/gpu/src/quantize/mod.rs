//! Making codes of weights on the device.

mod ldlq;
mod trellis;
mod viterbi;

pub use trellis::encode_trellis;
pub use viterbi::{TileEncoder, Tuning};
