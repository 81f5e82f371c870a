//! What an architecture asks for, op by op: each a few dispatches.

mod activations;
mod attention;
mod cache;
mod combine;
mod delta;
mod embedding;
mod experts;
mod latent;
mod norm;
mod rope;
mod routing;
mod rows;
mod sample;

pub use activations::Activations;
pub use cache::Cache;
pub use delta::DeltaRule;
pub use embedding::Embedding;
pub use experts::Experts;
pub use latent::Expansion;
pub use norm::Norm;
pub use sample::Tokens;

pub(crate) use attention::attend;
pub(crate) use delta::delta_rule;
pub(crate) use experts::{Moe, first, mlp, moe};
pub(crate) use latent::latent_attend;
pub(crate) use rope::RopeTables;
pub(crate) use routing::Rules;
pub(crate) use rows::{select, upload};
pub(crate) use sample::sample;

/// Lanes of a workgroup, where nothing speaks for another number.
const WORKGROUP: u32 = 256;
