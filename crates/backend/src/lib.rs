//! The op vocabulary that architectures are written in, and a conformance suite for its implementations.
#![forbid(unsafe_code)]

pub mod conformance;
mod error;
mod inference;
mod quantization;
mod spec;
mod weights;

pub use error::Error;
pub use inference::{AttentionInputs, Inference};
pub use quantization::{EncodeJob, Quantization, RouteWeighting};
pub use spec::{AttentionSpec, Rope, RopePairing};
pub use treillage_moe::Routing;
pub use weights::{DenseData, DenseWeights, LinearShape, LinearWeights, Shared, SwiGlu};
