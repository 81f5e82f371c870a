//! Making codes of weights on the device.

mod grouped;
mod ldlq;
mod matrices;
mod refit;
mod trellis;
mod viterbi;

pub use grouped::{Arrived, Coded, Coming, Factor, Measured, encode_grouped, second_moment};
pub use trellis::encode_trellis;
pub use viterbi::{TileEncoder, Tuning};
