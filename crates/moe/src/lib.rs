//! Mixture-of-experts routing, grouping of tokens by expert and bit allocation.
#![forbid(unsafe_code)]

mod allocation;
mod error;
mod grouping;
mod routing;

pub use allocation::{Allocation, AverageOutOfRange, Part, RateGroup, allocate};
pub use error::Error;
pub use grouping::{Groups, group};
pub use routing::{Choice, Routes, Routing, route};
