//! Model checkpoints, read and written: safetensors, `config.json`, EXL3, compressed-tensors, FP-Quant, GPTQ.
//!
//! [`Checkpoint`] opens a folder in Hugging Face format, quantized or not, maps its files and hands out what a model is
//! built from: linears as they are stored ([`StoredLinear`]), other tensors ([`DenseTensor`]), the architecture
//! ([`ModelConfig`]). Nothing is read before it is asked for, and dense weights and trellis words stay in the mapped file
//! wherever their alignment permits. [`Exl3Writer`], [`GroupedWriter`] and [`DenseWriter`] write such folders block by
//! block; killed at any moment, they go on where they were and end with the same bytes.
//!
//! Files are not trusted. Headers, indices and configurations are checked before anything is computed from them, no
//! memory is reserved on the word of a file, and every error is one line that names file, tensor and reason.
//!
//! The crate knows file formats, not mathematics: it decodes no trellis, runs no model, and reads neither tokenizers
//! nor remote repositories.
//!
//! ```
//! use treillage_checkpoint::{Checkpoint, FeedForward, StoredLinear};
//!
//! # fn main() -> treillage_checkpoint::Result<()> {
//! # let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/micro-qwen3_moe");
//! let checkpoint = Checkpoint::open(dir)?;
//! let config = checkpoint.config();
//! assert_eq!(config.architecture.model_type(), "qwen3_moe");
//!
//! let FeedForward::Moe(moe) = config.feed_forward(0) else { unreachable!() };
//! let expert = checkpoint.linear(
//!     "model.layers.0.mlp.experts.7.up_proj",
//!     config.hidden_size,
//!     moe.intermediate_size,
//! )?;
//! match expert {
//!     StoredLinear::Dense { weight, .. } => weight.check_finite()?,
//!     StoredLinear::Trellis(packed) => println!("{} bits per weight", packed.bits()),
//!     StoredLinear::Grouped(grouped) => println!("a scale per {} weights", grouped.parts().group),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | `checkpoint` | the folder as a whole |
//! | `config` | `config.json`, `generation_config.json`, limits of plausibility |
//! | `safetensors` | headers, views, and the writing of headers |
//! | `shards` | one file or several, with or without an index |
//! | `mmap` | mapped files and typed windows into them; the only unsafe code |
//! | `linear` | the ways a linear can be stored: EXL3 variants, dense, fused experts, groups |
//! | `fp8` | E4M3 weights with scales |
//! | `grouped` | codes with a scale per group: compressed-tensors, `fp_quant`, GPTQ |
//! | `dense`, `dtype` | tensors of floats, element types |
//! | `write` | jobs, parts, shards, descriptions |
//! | `error`, `json` | messages; files of bounded size |

mod checkpoint;
mod config;
mod dense;
mod dtype;
mod error;
mod fp8;
mod grouped;
mod json;
mod linear;
mod mmap;
mod safetensors;
mod shards;
mod write;

pub use checkpoint::Checkpoint;
pub use config::{
    Architecture, Attention, ConfigError, DeltaNet, FeedForward, FpQuantDtype, GptqVersion,
    LatentAttention, Mixer, ModelConfig, Moe, Quantization, Scoring, SharedExpert,
};
pub use dense::{DenseData, DenseTensor, HalfDtype, Shared};
pub use dtype::Dtype;
pub use error::{Error, Result, TensorError};
pub use linear::StoredLinear;
pub use safetensors::{Header, HeaderError, Safetensors, TensorView};
pub use shards::{IndexError, check_index};
pub use write::{
    DEFAULT_SHARD_BYTES, DenseSettings, DenseWriter, Exl3Settings, Exl3Writer, Export,
    GroupedSettings, GroupedWriter, Module, WriteError, write_atomically,
};
