//! Packed words back to weights.

mod linear;
mod scalar;
mod vector;

pub use scalar::decode_tile_scalar;
pub use vector::{decode_tile, decode_tile_with};
