//! Writing checkpoints so that a killed job can go on and nobody ever sees half a file.

mod assemble;
mod atomic;
mod companions;
mod dense;
mod description;
mod exl3;
mod job;
mod part;

use std::path::Path;

pub use atomic::write_atomically;
pub use dense::{DenseSettings, DenseWriter};
pub use exl3::{Exl3Settings, Exl3Writer, Module};

use crate::Error;

/// Bytes of tensors that one shard holds at most unless told otherwise: 8 GiB.
pub const DEFAULT_SHARD_BYTES: u64 = 8192 << 20;

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
}

impl WriteError {
    fn at(self, path: &Path) -> Error {
        Error::Write {
            path: path.to_owned(),
            reason: self,
        }
    }
}
