use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{ConfigError, Dtype, HeaderError, IndexError, WriteError};

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a checkpoint could not be read or written. Every message is one line that names the file and, where there is
/// one, the tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: no such file, no permission, disk full…
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was attempted: "read", "write"…
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file that is larger than such a file can sensibly be.
    #[error("{}: {found} bytes, more than the {limit} that such a file may have", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The largest accepted.
        limit: u64,
    },
    /// A safetensors file that is not valid.
    #[error("{}: {reason}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: HeaderError,
    },
    /// A `config.json` or `generation_config.json` that this crate cannot use.
    #[error("{}: {reason}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: ConfigError,
    },
    /// Shards that do not make one checkpoint.
    #[error("{}: {reason}", file.display())]
    Index {
        /// The index, or the folder if it has none.
        file: PathBuf,
        /// What is wrong with it.
        reason: IndexError,
    },
    /// A tensor that the model needs and the checkpoint lacks.
    #[error("{}: no tensor `{name}`", dir.display())]
    MissingTensor {
        /// The checkpoint.
        dir: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor that is there but cannot be used.
    #[error("{}: tensor `{name}`: {reason}", file.display())]
    Tensor {
        /// The file that holds it.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong with it.
        reason: TensorError,
    },
    /// A checkpoint that must not be written so, or there.
    #[error("{}: {reason}", path.display())]
    Write {
        /// The output folder.
        path: PathBuf,
        /// What is wrong.
        reason: WriteError,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        Error::Io {
            action,
            path: path.to_owned(),
            cause,
        }
    }
}

/// Why a tensor cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// Another shape than the model's configuration asks for.
    #[error("shape {found:?}, expected {expected:?}")]
    Shape {
        /// What the model needs.
        expected: Vec<usize>,
        /// What is stored.
        found: Vec<usize>,
    },
    /// Another number of axes than the layer has.
    #[error("shape {found:?}, expected {expected} axes")]
    Rank {
        /// Axes it should have.
        expected: usize,
        /// What is stored.
        found: Vec<usize>,
    },
    /// An element type that cannot stand here.
    #[error("dtype {found}, expected {expected}")]
    Dtype {
        /// The types that can.
        expected: &'static str,
        /// What is stored.
        found: Dtype,
    },
    /// NaN or an infinity.
    #[error("element {index} is {value}")]
    NotFinite {
        /// Where, counted in row-major order.
        index: usize,
        /// What it is.
        value: f32,
    },
    /// An expert that a fused tensor does not have.
    #[error("holds {experts} experts, not one numbered {expert}")]
    Expert {
        /// The number asked for, from zero.
        expert: usize,
        /// How many there are.
        experts: usize,
    },
    /// FP8 scales whose block size the configuration does not tell.
    #[error(
        "block scales need `quantization_config.weight_block_size` in config.json to be two positive numbers"
    )]
    BlockSize,
    /// Both codebook flags at one trellis.
    #[error("both codebook flags, mcg and mul1, are present")]
    TwoCodebooks,
    /// A bit stream in which no code is as wide as its length says.
    #[error("{words} words for {codes} codes: they have 2, 3, 4 or 8 bits each")]
    CodeWidth {
        /// Words that are there for each row or column.
        words: usize,
        /// Codes that they should hold.
        codes: usize,
    },
    /// Groups that do not tile the inputs.
    #[error("{groups} groups do not divide {in_features} input features")]
    Groups {
        /// How many there are.
        groups: usize,
        /// Width of the input.
        in_features: usize,
    },
    /// An input in a group that there is not.
    #[error("input {input} is in group {group}, of {groups}")]
    GroupIndex {
        /// The input.
        input: usize,
        /// Its group.
        group: i32,
        /// How many there are.
        groups: usize,
    },
    /// A group with more or fewer inputs than others.
    #[error("group {group} has {found} inputs, expected {expected}")]
    GroupSize {
        /// The group.
        group: usize,
        /// Its inputs.
        found: usize,
        /// What each group should have.
        expected: usize,
    },
    /// A zero point that is no code.
    #[error("element {index} is {value}, no signed number of {bits} bits")]
    ZeroPoint {
        /// Where, counted in row-major order.
        index: usize,
        /// What it is.
        value: i16,
        /// Width of a code.
        bits: usize,
    },
    /// A tensor that holds the shape of another, and not that one's.
    #[error("says {found:?}, expected {expected:?}")]
    PackedShape {
        /// What the model needs.
        expected: [usize; 2],
        /// What it says.
        found: [i64; 2],
    },
    /// A matrix's factor that nothing can be divided by.
    #[error("is {0}, expected a finite number above zero")]
    Factor(f32),
    /// A rotation that is not one of those that are implemented.
    #[error(
        "neither the identity nor a Hadamard matrix in Sylvester's order, of 16, 32, 64 or 128 inputs"
    )]
    NotHadamard,
    /// GPTQ codes in a checkpoint whose configuration does not say so, and so not how its zeros are stored.
    #[error("GPTQ codes need `quantization_config` in config.json, of quant_method `gptq`")]
    NoGptqConfig,
    /// Parts of a group-quantized linear that do not fit each other.
    #[error(transparent)]
    Grouped(#[from] treillage_gptq::Error),
    /// Trellis parts that do not fit each other.
    #[error(transparent)]
    Trellis(#[from] treillage_trellis::Error),
}

/// `text` in backquotes, on one line and not too long: foreign strings go into messages this way only.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 100;
    let mut shown: String = text.escape_debug().take(LONGEST + 1).collect();
    if shown.chars().count() > LONGEST {
        shown.pop();
        shown.push('…');
    }
    format!("`{shown}`")
}
