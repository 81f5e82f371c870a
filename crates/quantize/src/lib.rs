//! Quantizes a checkpoint: a Hugging Face folder in, an EXL3 folder out.
//!
//! [`quantize`] goes through a model block by block. Each block is calibrated on what the blocks before it, already
//! quantized, make of the calibration text; its linears are encoded; the block is put on disk; the text moves on
//! through the block as it was written. Memory holds one block and the activations of the text, not the model. A run
//! that is killed goes on with the first unfinished block and ends with the same bytes.
//!
//! It is written over [`treillage_backend::Quantization`] and does not know what computes. It does not know how a
//! linear is encoded (`treillage-trellis`), what a block computes (`treillage-model`) or how files are laid out
//! (`treillage-checkpoint`) either; what remains is whose tokens a linear is calibrated with, in what order, and at
//! what rate.
//!
//! - [`CalibrationTokens`] are the text.
//! - [`Options`] say what to make; its [`Recipe`] how errors are measured, so that recipes can be compared.
//! - [`Event`] tells how far a run has come, [`Summary`] what it did.
//!
//! ```
//! use treillage_quantize::{CalibrationTokens, HeadBits, Options, Recipe};
//!
//! // Any sequence of token ids will do; `CalibrationTokens::read` takes text files and a tokenizer.
//! let ids: Vec<u32> = (0..10_000).map(|i| i % 500).collect();
//! let tokens = CalibrationTokens::spread(&ids, 8, 512)?;
//! assert_eq!(tokens.rows().len(), 8);
//!
//! let options = Options {
//!     bits_per_weight: 3.5,
//!     head_bits: HeadBits::try_from(6)?,
//!     recipe: Recipe::original(),
//!     ..Options::default()
//! };
//! # let run = |backend: treillage_cpu::CpuBackend| {
//! treillage_quantize::quantize(
//!     &backend,
//!     "Qwen3-30B-A3B".as_ref(),
//!     "Qwen3-30B-A3B-3.5bpw".as_ref(),
//!     &tokens,
//!     &options,
//!     &mut |event| println!("{event:?}"),
//! )
//! # };
//! # Ok::<(), treillage_quantize::Error>(())
//! ```
//!
//! # Experts
//!
//! A router sends an expert the tokens that it is for, so those should count for its Hessian, by the square of the
//! weight that its output gets. But some experts see fewer tokens than they have inputs, or none. Their Hessian is
//! drawn toward the average of the layer: `H_e ← (T_e H_e + τ H_layer) / (T_e + τ)`. [`Summary::starved_experts`]
//! names them.
//!
//! # Modules
//!
//! | module | |
//! |---|---|
//! | `options`, `serde_foreign` | what can be asked for, and its serialised form |
//! | `tokens` | rows of calibration tokens |
//! | `rates` | the budget, spread over the linears |
//! | `preflight` | what can be found wrong before the work begins |
//! | `run` | the order of things |
//! | `block` | one block: capture and encode, stage by stage |
//! | `stream` | activations between blocks |
//! | `statistics` | Hessians of a block's inputs |
//! | `encode` | linears of the source to trellis codes |
//! | `overlay` | a checkpoint with some linears replaced |
//! | `work` | what is on disk, for resuming |
//! | `event`, `summary`, `error` | what callers are told |
#![forbid(unsafe_code)]

mod block;
mod encode;
mod error;
mod event;
mod hash;
mod options;
mod overlay;
mod preflight;
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
