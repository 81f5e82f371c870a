//! Writing checkpoints so that a killed job can go on and nobody ever sees half a file.

mod assemble;
mod atomic;
mod companions;
mod dense;
mod description;
mod exl3;
mod grouped;
mod job;
mod part;

use std::path::Path;

use serde_json::{Map, Value, json};
use treillage_gptq::{Format, GroupedLinear};
use treillage_trellis::PackedLinear;

pub use atomic::write_atomically;
pub use dense::{DenseSettings, DenseWriter};
pub use exl3::{Exl3Settings, Exl3Writer};
pub use grouped::{Export, GroupedSettings, GroupedWriter};

use crate::{DenseTensor, Error};
use assemble::StoredModule;

/// Bytes of tensors that one shard holds at most unless told otherwise: 8 GiB.
pub const DEFAULT_SHARD_BYTES: u64 = 8192 << 20;

/// One leaf module of a quantized checkpoint.
pub enum Module<'a> {
    /// A linear as trellis codes; for [`Exl3Writer`].
    Trellis {
        /// For example `model.layers.0.self_attn.q_proj`.
        name: &'a str,
        /// Its codes.
        linear: &'a PackedLinear,
    },
    /// A linear as codes with a scale per group; for [`GroupedWriter`].
    Grouped {
        /// For example `model.layers.0.self_attn.q_proj`.
        name: &'a str,
        /// Its codes.
        linear: &'a GroupedLinear,
        /// FP-Quant in NVFP4 only: `448 · 6` over the largest magnitude among its inputs.
        activation_scale: Option<f32>,
    },
    /// A linear that stays dense; [`Exl3Writer`] stores it in half precision, [`GroupedWriter`] as it is.
    Linear {
        /// For example `model.layers.0.mlp.gate`.
        name: &'a str,
        /// `[out_features, in_features]`.
        weight: &'a DenseTensor,
        /// `[out_features]`.
        bias: Option<&'a DenseTensor>,
    },
    /// A tensor that is no linear's, stored as it is under its own name: a norm, an embedding.
    Tensor(&'a DenseTensor),
}

/// Says in `config` that the head is not the embedding if `modules` have one of its own.
fn untie_if_written(config: &mut Map<String, Value>, modules: &[StoredModule<'_>]) {
    let has_head = modules.iter().any(|module| module.name == "lm_head");
    if has_head && config.contains_key("tie_word_embeddings") {
        config.insert("tie_word_embeddings".to_owned(), json!(false));
    }
}

/// Why a checkpoint must not be written so, or there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A folder with something in it that is not an unfinished job.
    #[error("the output directory is not empty")]
    NotEmpty,
    /// An unfinished job of other settings.
    #[error(
        "holds an unfinished job with another {0}: finish it with its own settings, or choose another directory"
    )]
    OtherJob(String),
    /// Someone else is at it.
    #[error("another process is writing here")]
    Busy,
    /// A group that the job was not created with.
    #[error("the job has no group `{0}`")]
    UnknownGroup(String),
    /// A job that is to be finished too early.
    #[error("group `{0}` is not written yet")]
    MissingGroup(String),
    /// Two tensors of one name.
    #[error("tensor `{0}` would be written twice")]
    Duplicate(String),
    /// A value that the output type has no number for.
    #[error("tensor `{name}`: element {index} is {value}, too large for {dtype}")]
    Overflow {
        /// The tensor.
        name: String,
        /// Where, counted in row-major order.
        index: usize,
        /// What it is.
        value: f32,
        /// The type it should become.
        dtype: crate::Dtype,
    },
    /// A linear whose codebook is not the model's.
    #[error(
        "linear `{name}` has codebook {found}, the model {expected}: one model has one codebook"
    )]
    Codebook {
        /// The linear.
        name: String,
        /// Its codebook.
        found: treillage_trellis::Codebook,
        /// The model's.
        expected: treillage_trellis::Codebook,
    },
    /// Experts of one layer whose rates differ.
    #[error(
        "linear `{name}` has {found} bits, the same projection of other experts {expected}: they must agree"
    )]
    ExpertBits {
        /// The linear.
        name: String,
        /// Its bits.
        found: treillage_trellis::Bits,
        /// The others' bits.
        expected: treillage_trellis::Bits,
    },
    /// A layout that there is not.
    #[error("unknown layout `{0}`: expected compressed-tensors, fp_quant or gptq")]
    UnknownExport(String),
    /// Numbers that a layout has no place for.
    #[error("{export} has no {format}")]
    Export {
        /// The layout.
        export: Export,
        /// The numbers.
        format: Format,
    },
    /// A size that rotation matrices cannot have.
    #[error("rotation matrices of {size}: expected 16, 32, 64 or 128, at least {least}")]
    Rotation {
        /// The size asked for.
        size: usize,
        /// The least that the format has.
        least: usize,
    },
    /// A linear that a layout has no place for, or that is not what the checkpoint says.
    #[error("linear `{name}` cannot be written as {export}: {reason}")]
    Linear {
        /// The linear.
        name: String,
        /// The layout.
        export: Export,
        /// Why not.
        reason: &'static str,
    },
    /// A linear of trellis codes among group-quantized ones.
    #[error("linear `{0}` is trellis codes, for which this layout has no place")]
    Trellis(String),
    /// A group-quantized linear among trellis codes.
    #[error("linear `{0}` has a scale per group, for which EXL3 has no place")]
    Grouped(String),
}

impl WriteError {
    fn at(self, path: &Path) -> Error {
        Error::Write {
            path: path.to_owned(),
            reason: self,
        }
    }
}
