//! Mixture-of-experts routing, grouping of tokens by expert and bit allocation.
#![forbid(unsafe_code)]

mod allocation;
mod routing;

pub use allocation::{Allocation, AverageOutOfRange, Part, RateGroup, allocate};
pub use routing::Routing;
