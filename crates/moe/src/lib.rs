//! Mixture-of-experts bookkeeping: which experts each token goes to, which tokens each expert gets, and how many bits
//! each group of linears can afford.
//!
//! There are no tensors here, no threads and no device: logits come in as numbers, and what comes out are indices and
//! weights, for whoever multiplies.
//!
//! ```text
//! logits ─► route ─► Routes: for each token, its experts and their weights
//!                       └──► group ─► Groups: for each expert, its tokens
//! ```
//!
//! Every token appears exactly `top_k` times among the groups, in ascending order within each; whatever visits the
//! groups in order and adds up by [`Groups::places`] gets the same result on any number of threads.
//!
//! ```
//! use treillage_moe::{Routing, group, route};
//!
//! let routing = Routing::softmax(2, true);
//! let logits = [
//!     2.0, 0.0, 1.0, -1.0, // the first token goes to experts 0 and 2
//!     0.0, 3.0, 3.0, 0.0, // the second to experts 1 and 2, with equal weights
//! ];
//! let routes = route(&logits, 4, &routing, None)?;
//! let groups = group(&routes);
//! assert!(groups.active().eq([0, 1, 2]));
//! assert!(groups.tokens(2).eq([0, 1]));
//! let weights: Vec<f32> = routes.token(1).iter().map(|choice| choice.weight).collect();
//! assert_eq!(weights, [0.5, 0.5]);
//! # Ok::<(), treillage_moe::Error>(())
//! ```
//!
//! # Modules
//! All private; their items are here.
//!
//! | module | |
//! |---|---|
//! | `routing` | scores, corrections, groups and top-k |
//! | `grouping` | a counting sort of choices by expert |
//! | `allocation` | rates for groups of linears under an average: by position, or of least loss |
#![forbid(unsafe_code)]

mod allocation;
mod error;
mod grouping;
mod routing;

pub use allocation::{
    Allocation, AllocationError, LossGroup, Part, RateGroup, allocate, least_loss,
};
pub use error::Error;
pub use grouping::{Groups, group};
pub use routing::{Choice, GroupLimit, Routes, Routing, Scoring, route};
