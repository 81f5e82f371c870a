//! Language models, written once over a backend: load one from a checkpoint, continue a text, judge its predictions.
//!
//! The crate knows architectures and text, and no hardware. A transformer block is written in the ops of
//! [`Inference`](treillage_backend::Inference), so that one definition runs on every backend, and calibrates for
//! quantization on those that can ([`Block::watch`]). It does not read files of weights (that is
//! `treillage-checkpoint`), does not compute (that is the backend) and does not quantize.
//!
//! Architectures: `qwen3`, `qwen3_moe`, `qwen3_next` and `glm4_moe_lite`.
//!
//! # Example
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use treillage_checkpoint::Checkpoint;
//! use treillage_cpu::CpuBackend;
//! use treillage_model::{GenerateOptions, Model, generate, text::Tokenizer};
//!
//! # let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/micro-qwen3_moe").as_ref();
//! let checkpoint = Checkpoint::open(dir)?;
//! let tokenizer = Tokenizer::open(dir)?;
//! let backend = CpuBackend::default();
//! let model = Model::load(&backend, &checkpoint, checkpoint.config())?;
//!
//! let prompt = tokenizer.encode("The Rust programming language is")?;
//! let options = GenerateOptions {
//!     max_tokens: 7,
//!     stop_ids: checkpoint.config().eos_token_ids.clone(),
//!     ..GenerateOptions::default()
//! };
//! let mut session = model.session(&backend, 128)?;
//! let continuation = generate(&mut session, &tokenizer, &prompt, &options, &mut |piece| {
//!     print!("{piece}");
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(continuation.text, " guaranteed");
//! # Ok::<(), treillage_model::Error>(())
//! ```
//!
//! # Map
//!
//! | | |
//! |---|---|
//! | [`plan`](mod@plan) | which tensors a model has and which linears share an input, from the config alone |
//! | [`Weights`] | where weights come from: a checkpoint, or anything else |
//! | [`Embedding`], [`Block`], [`Head`] | the steps of a model, each loadable alone, so that quantization needs one at a time |
//! | [`Model`], [`Session`] | all steps together, and one sequence of tokens with its caches |
//! | [`text`] | tokenizer, streaming decoder, chat template |
//! | [`Sampler`] | the next token from logits |
//! | [`generate`](mod@generate) | a continuation, streamed, with its stopping rules |
//! | [`evaluate`] | perplexity, and divergence from a reference model |
#![forbid(unsafe_code)]

mod block;
mod ends;
mod error;
pub mod evaluate;
pub mod generate;
mod model;
pub mod plan;
mod sampling;
pub mod text;
mod weights;

pub use block::{Block, BlockMoments};
pub use ends::{Embedding, Head};
pub use error::Error;
pub use generate::{GenerateOptions, Generated, generate};
pub use model::{Model, PREFILL_CHUNK, Session};
pub use plan::plan;
pub use sampling::{Sampler, SamplingOptions};
pub use weights::{Weights, dense_weights};
