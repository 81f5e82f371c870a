use std::{io, path::PathBuf};

/// Why a checkpoint could not be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading the source or writing the result failed.
    #[error(transparent)]
    Checkpoint(#[from] treillage_checkpoint::Error),
    /// The model could not be built or run.
    #[error(transparent)]
    Model(#[from] treillage_model::Error),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] treillage_backend::Error),
    /// Statistics that do not fit each other.
    #[error(transparent)]
    Linalg(#[from] treillage_linalg::Error),
    /// Bits per weight that no linear can have.
    #[error(transparent)]
    Average(#[from] treillage_moe::AverageOutOfRange),
    /// A rate that no trellis has.
    #[error(transparent)]
    Trellis(#[from] treillage_trellis::Error),
    /// A rate that no head can have.
    #[error("{0} bits for the head: expected 1 to 8, or 16 to keep it as it is")]
    HeadBits(u8),
    /// A damping or shrinkage that is not a number of that kind.
    #[error("{name} is {value}: expected a finite number, not negative")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it was set to.
        value: f64,
    },
    /// No calibration at all was asked for.
    #[error("calibration of {rows} rows of {cols} tokens is none")]
    EmptyCalibration {
        /// Rows asked for.
        rows: usize,
        /// Tokens of a row asked for.
        cols: usize,
    },
    /// Less text than one row.
    #[error(
        "the calibration text has {tokens} tokens, one row needs {cols}: give more text or shorter rows"
    )]
    CalibrationTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a row.
        cols: usize,
    },
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The model's own activations left the range of numbers.
    #[error("the output of block {block} on calibration row {row} is not finite")]
    ActivationsNotFinite {
        /// The block, counted from 0.
        block: usize,
        /// The row, counted from 0.
        row: usize,
    },
    /// The source is not an original.
    #[error("{0} is already quantized: quantize from the original checkpoint")]
    AlreadyQuantized(String),
}
