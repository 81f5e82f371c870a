//! Quantizes a checkpoint block by block: calibration, budget, encoding, resume.
#![forbid(unsafe_code)]

mod block;
mod encode;
mod error;
mod event;
mod hash;
mod options;
mod overlay;
mod rates;
mod run;
mod serde_foreign;
mod statistics;
mod stream;
mod summary;
mod tokens;
mod work;

pub use error::Error;
pub use event::Event;
pub use options::{Capture, ExpertTokens, HeadBits, Options, Recipe};
pub use run::quantize;
pub use summary::{LinearSummary, Summary};
pub use tokens::CalibrationTokens;
