//! Quantizes a checkpoint: a Hugging Face folder in, a quantized folder out.
//!
//! [`quantize`] goes through a model block by block. Each block is calibrated on what the blocks before it, already
//! quantized, make of the calibration text; its linears are encoded; the block is put on disk; the text moves on
//! through the block as it was written. Memory holds one block and the activations of the text, not the model. A run
//! that is killed goes on with the first unfinished block and ends with the same bytes.
//!
//! It is written over [`treillage_backend::Quantization`] and does not know what computes. It does not know how a
//! linear is encoded (`treillage-trellis`, `treillage-gptq`), what a block computes (`treillage-model`) or how files
//! are laid out (`treillage-checkpoint`) either; what remains is whose tokens a linear is calibrated with, in what
//! order, at what rate, and in what basis.
//!
//! - [`CalibrationTokens`] are the text.
//! - [`Options`] say what to make: its [`Method`] what becomes of a linear, trellis codes or, by MR-GPTQ, codes with a
//!   scale per group; its [`Recipe`] how errors are measured, so that recipes can be compared. All else is the same for
//!   both methods.
//! - [`Event`] tells how far a run has come, [`Summary`] what it did.
//!
//! ```
//! use treillage_quantize::{CalibrationTokens, HeadBits, Options, Recipe, TrellisOptions};
//!
//! // Any sequence of token ids will do; `CalibrationTokens::read` takes text files and a tokenizer.
//! let ids: Vec<u32> = (0..10_000).map(|i| i % 500).collect();
//! let tokens = CalibrationTokens::spread(&ids, 8, 512)?;
//! assert_eq!(tokens.rows().len(), 8);
//!
//! let options = Options {
//!     recipe: Recipe::original(),
//!     ..Options::trellis(TrellisOptions {
//!         bits_per_weight: 3.5,
//!         head_bits: HeadBits::try_from(6)?,
//!         ..TrellisOptions::default()
//!     })
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
//! # Rotations
//!
//! MR-GPTQ rotates inputs where that helps. Files of FP-Quant say so linear by linear. For other files the rotation is
//! folded into the model, [`Folded`], which then computes the same from other tensors; the stages of a run see that
//! model and no other. What is chosen before the work begins is kept with it, so that a run which goes on ends with the
//! same bytes.
//!
//! # Modules
//!
//! | module | |
//! |---|---|
//! | `options`, `gptq`, `serde_foreign` | what can be asked for, and its serialised form |
//! | `tokens` | rows of calibration tokens |
//! | `rates` | the budget, spread over the linears |
//! | `sensitivity`, `noise` | what errors in each linear would cost |
//! | `preflight` | what can be found wrong before the work begins |
//! | `run` | the order of things |
//! | `block` | one block: capture and encode, stage by stage |
//! | `passes` | how often rows go through a block, so that what is gathered fits into memory |
//! | `stream` | activations between blocks |
//! | `statistics` | Hessians of a block's inputs |
//! | `encode` | linears of the source to codes, a few at a time |
//! | `coder` | what methods differ in: one call to encode, one to write |
//! | `fold` | the original in another basis |
//! | `rotation`, `trial`, `survey` | rotations: named, tried, chosen for the whole model |
//! | `overlay` | a checkpoint with some linears replaced |
//! | `work`, `writer` | what is on disk, for resuming |
//! | `event`, `summary`, `error` | what callers are told |
#![forbid(unsafe_code)]

mod block;
mod coder;
mod encode;
mod error;
mod event;
mod fold;
mod gptq;
mod hash;
mod noise;
mod options;
mod overlay;
mod passes;
mod preflight;
mod rates;
mod rotation;
mod run;
mod sensitivity;
mod serde_foreign;
mod statistics;
mod stream;
mod summary;
mod survey;
mod tokens;
mod trial;
mod work;
mod writer;

pub use error::Error;
pub use event::{Event, Stage};
pub use fold::{Fold, Folded};
pub use gptq::GptqOptions;
pub use options::{
    AllocationRule, Capture, ExpertTokens, HeadBits, Method, Options, Recipe, TrellisOptions,
};
pub use rotation::RotationRule;
pub use run::quantize;
pub use summary::{LinearSummary, Summary};
pub use tokens::CalibrationTokens;
