use std::{io, path::PathBuf};

use treillage_checkpoint::Export;
use treillage_gptq::Format;

/// Why a checkpoint could not be quantized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A block does not fit into the memory that is allowed.
    #[error(
        "a block takes at least {:.3} GiB of memory with what is gathered of an expert's inputs, and {:.3} are allowed",
        gib(*.needed), gib(*.limit)
    )]
    Memory {
        /// Bytes that suffice.
        needed: u64,
        /// Bytes that are allowed: [`Options::memory`](crate::Options::memory).
        limit: u64,
    },
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
    Allocation(#[from] treillage_moe::AllocationError),
    /// A rate that no trellis has.
    #[error(transparent)]
    Trellis(#[from] treillage_trellis::Error),
    /// Codes that do not make a linear.
    #[error(transparent)]
    Gptq(#[from] treillage_gptq::Error),
    /// A rotation that there is not.
    #[error("no rotation `{0}`: expected auto, none, 16, 32, 64 or 128")]
    UnknownRotation(String),
    /// A format that a layout of files has no place for.
    #[error("{export} files cannot hold {format}: {} can", holders(*format))]
    Export {
        /// The numbers asked for.
        format: Format,
        /// The files asked for.
        export: Export,
    },
    /// A group for a format that has its own.
    #[error("{format} has groups of {expected}, not of {found}")]
    FixedGroup {
        /// The numbers asked for.
        format: Format,
        /// Their group.
        expected: usize,
        /// The group asked for.
        found: usize,
    },
    /// A group that does not fit a linear.
    #[error("groups of {group} do not divide the {width} inputs of {linear}{}", advice(*fitting))]
    Group {
        /// The linear.
        linear: String,
        /// The group asked for.
        group: usize,
        /// Inputs of the linear.
        width: usize,
        /// A group that fits all linears of the model, if the format leaves the choice and there is one.
        fitting: Option<usize>,
    },
    /// A linear that classic GPTQ cannot pack.
    #[error("gptq files cannot hold {linear}: {} outputs and {} inputs are not multiples of 32", shape[0], shape[1])]
    GptqShape {
        /// The linear.
        linear: String,
        /// Its outputs and inputs.
        shape: [usize; 2],
    },
    /// A rotation that does not fit a linear.
    #[error(
        "a rotation of {block} does not divide the {width} inputs that {linear} reads together"
    )]
    Rotation {
        /// The linear.
        linear: String,
        /// Inputs that would be rotated together.
        block: usize,
        /// Inputs that there are, those of one head where heads are rotated by themselves.
        width: usize,
    },
    /// A rotation narrower than what shares a scale.
    #[error(
        "engines that rotate inputs of {format} have no rotation of {block}: expected 32, 64 or 128"
    )]
    RotationBelowGroup {
        /// The numbers asked for.
        format: Format,
        /// Inputs that would be rotated together.
        block: usize,
    },
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

/// The layouts that have a place for `format`.
fn holders(format: Format) -> String {
    let names = Export::ALL
        .into_iter()
        .filter(|export| export.holds(format));
    let names: Vec<&str> = names.map(Export::name).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(" and "),
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn advice(fitting: Option<usize>) -> String {
    fitting.map_or_else(String::new, |group| {
        format!("; groups of {group} fit all linears")
    })
}
