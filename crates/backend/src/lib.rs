//! The op vocabulary that architectures are written in, and a conformance suite for its implementations.
//!
//! An architecture is a function over [`Inference`]: it loads weights, gets handles, and calls ops on them. What computes,
//! and when, is the implementation's business; it may run an op at once, or record it and submit a token's ops
//! together. [`Quantization`] adds what calibration and encoding need: linears that gather the second moments of
//! what they read, in the very pass that serves inference.
//!
//! There is no implementation here and no architecture: `treillage-cpu` is one of the former, `treillage-model` has the
//! latter. [`encode_grouped_on_host`] is what implementations may share.
//!
//! - [`Inference`] and [`Quantization`] are the vocabulary.
//! - [`LinearWeights`] and [`DenseWeights`] are what weights are loaded from (dense, trellis codes, codes with a scale per
//!   group), checked against a [`LinearShape`].
//! - [`AttentionSpec`], [`LatentSpec`], [`DeltaSpec`], [`Routing`] and [`SwiGlu`] say what an op computes.
//! - [`conformance`] holds an implementation to its promises, op by op, against f64.
//!
//! ```
//! use std::sync::Arc;
//!
//! use treillage_backend::{DenseData, DenseWeights, Error, Inference, LinearShape, LinearWeights, SwiGlu};
//!
//! /// A network of its own: `x + swiglu(norm(x))`, on any backend.
//! fn network<B: Inference>(backend: &B, ids: &[u32]) -> Result<Vec<f32>, Error> {
//!     let (hidden, intermediate) = (64, 160);
//!     let load = |in_features, out_features| {
//!         let values = vec![0.01; in_features * out_features];
//!         let weight = DenseWeights::new(out_features, in_features, DenseData::F32(Arc::new(values)))?;
//!         let shape = LinearShape { in_features, out_features };
//!         backend.load_linear(LinearWeights::Dense { weight, bias: None }, shape)
//!     };
//!     let mlp = SwiGlu {
//!         gate: load(hidden, intermediate)?,
//!         up: load(hidden, intermediate)?,
//!         down: load(intermediate, hidden)?,
//!     };
//!     let norm = backend.load_norm(vec![1.0; hidden], 1e-6)?;
//!     let table = DenseWeights::new(10, hidden, DenseData::F32(Arc::new(vec![0.5; 10 * hidden])))?;
//!     let x = backend.embed(&backend.load_embedding(table)?, ids)?;
//!     backend.read(&backend.mlp(&x, &norm, &mlp)?)
//! }
//!
//! // Weights say so when they do not fit, before any backend sees them.
//! let short = DenseWeights::new(3, 4, DenseData::F32(Arc::new(vec![0.0; 11])));
//! assert!(matches!(short, Err(Error::Shape { expected: 12, found: 11, .. })));
//! ```
//!
//! # Modules
//! All but [`conformance`] are private; their items are here.
//!
//! | module | |
//! |---|---|
//! | `inference`, `quantization` | the two traits |
//! | `spec` | sizes of attention and of recurrence, positions |
//! | `room` | how full a cache is |
//! | `sampling` | choosing a token |
//! | `weights` | what weights are loaded from |
//! | `grouped` | codes with a scale per group, where a device does not make them |
//! | `error` | what can go wrong |
//! | [`conformance`] | the suite |
#![forbid(unsafe_code)]

pub mod conformance;
mod error;
mod grouped;
mod inference;
mod quantization;
mod room;
mod sampling;
mod spec;
mod weights;

pub use error::Error;
pub use grouped::encode_grouped_on_host;
pub use inference::{
    AttentionInputs, DeltaInputs, Inference, LatentInputs, MoeLayer, SharedExpert,
};
pub use quantization::{EncodeJob, Quantization, RouteWeighting};
pub use room::Room;
pub use sampling::Choice;
pub use spec::{AttentionSpec, DeltaSpec, DeltaWeights, LatentSpec, MixerSpec, Rope, RopePairing};
pub use treillage_moe::{GroupLimit, Routing, Scoring};
pub use weights::{DenseData, DenseWeights, LinearShape, LinearWeights, Shared, SwiGlu};
