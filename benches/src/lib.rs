//! What the measurements of this workspace share: repeated timing, random inputs, the artifact they leave.
//!
//! `cargo xtask bench` runs the binaries here, which measure what the product promises and write JSON. The criterion
//! benches in `benches/` answer one question each about one stage, for whoever works on it: `cargo bench -p
//! treillage-benches`. Neither measures quality, except for the binaries `quality` and `allocation`, and neither uses real weights: speed
//! does not depend on them.
//!
//! | module | |
//! |---|---|
//! | [`artifact`] | the JSON file, its schema versioned |
//! | [`machine`] | what it ran on |
//! | [`model`] | whole models of random words |
//! | [`presets`] | the sizes that they have |
//! | [`random`] | numbers, packed and grouped linears from a seed |
//! | [`trials`] | models quantized and judged |
//! | [`timing`] | repeated runs: best, median, percentiles |
//!
//! ```
//! use treillage_benches::timing::Timings;
//!
//! let timings = Timings::of(5, || -> Result<(), std::convert::Infallible> {
//!     std::hint::black_box((0..1000).sum::<u64>());
//!     Ok(())
//! })?;
//! assert!(timings.best() <= timings.median());
//! # Ok::<(), std::convert::Infallible>(())
//! ```
#![forbid(unsafe_code)]

pub mod artifact;
pub mod machine;
pub mod model;
pub mod presets;
pub mod random;
pub mod stored;
pub mod timing;
pub mod trials;
