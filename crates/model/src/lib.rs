//! Language-model architectures written once over a backend, with tokenizer, chat template and sampling.
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
pub use sampling::{Sampler, SamplingOptions, argmax};
pub use weights::Weights;
