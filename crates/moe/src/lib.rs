//! Mixture-of-experts routing, grouping of tokens by expert and bit allocation.
#![forbid(unsafe_code)]

mod routing;

pub use routing::Routing;
