//! Reads and writes model checkpoints: safetensors, configs, EXL3.

mod checkpoint;
mod config;
mod dense;
mod dtype;
mod error;
mod fp8;
mod json;
mod linear;
mod mmap;
mod safetensors;
mod shards;
mod write;

pub use checkpoint::Checkpoint;
pub use config::{
    Architecture, Attention, ConfigError, FeedForward, ModelConfig, Moe, Quantization,
};
pub use dense::{DenseData, DenseTensor, HalfDtype, Shared};
pub use dtype::Dtype;
pub use error::{Error, Result, TensorError};
pub use linear::StoredLinear;
pub use safetensors::{Header, HeaderError, Safetensors, TensorView};
pub use shards::{IndexError, check_index};
pub use write::{
    DEFAULT_SHARD_BYTES, DenseSettings, DenseWriter, Exl3Settings, Exl3Writer, Module, WriteError,
    write_atomically,
};
