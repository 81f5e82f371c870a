//! Every kernel on a device, against plain Rust in f64, with run-time checks and without: both must give the same bits.
//!
//! Without an adapter these tests say so and pass; with `TREILLAGE_REQUIRE_GPU=1` they fail.
// Helpers outside of test functions are test code too.
#![allow(clippy::unwrap_used)]

mod attention;
mod cache;
mod delta;
mod elementwise;
mod harness;
mod latent;
mod moments;
mod norm;
mod quantize;
mod refit;
mod routing;
mod rows;
mod sampling;
