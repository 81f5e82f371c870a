//! `config.json` and `generation_config.json`: what the model is.

mod fields;
mod model;
mod quantization;

use std::path::Path;

use serde_json::Value;

pub use model::{Architecture, Attention, FeedForward, ModelConfig, Moe};
pub use quantization::Quantization;

use crate::{Error, Result, json};

/// Name of the configuration.
pub(crate) const CONFIG: &str = "config.json";
/// Name of the defaults for generating text.
const GENERATION_CONFIG: &str = "generation_config.json";
/// Largest configuration accepted, in bytes.
const LARGEST_CONFIG: u64 = 4 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON.
    #[error("not valid JSON: {0}")]
    Json(serde_json::Error),
    /// JSON, but a list, a string…
    #[error("not a JSON object")]
    NotAnObject,
    /// A field that the architecture needs.
    #[error("required field `{0}` is missing")]
    Missing(&'static str),
    /// A field of another type.
    #[error("field `{field}` is not {expected}")]
    Type {
        /// The field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A value that no such model has.
    #[error("field `{field}` is {value}, expected {expected}")]
    Implausible {
        /// The field.
        field: &'static str,
        /// What it says.
        value: String,
        /// What would do.
        expected: String,
    },
    /// An architecture that is not implemented.
    #[error(
        "unknown architecture {found}: supported are {}",
        Architecture::supported()
    )]
    Architecture {
        /// What the file says.
        found: String,
    },
    /// Something of a known architecture that is not implemented.
    #[error("field `{field}`: {value} is not supported, only {supported}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// What it asks for.
        value: String,
        /// What there is.
        supported: &'static str,
    },
}

/// The JSON file `path`.
pub(crate) fn read(path: &Path) -> Result<Value> {
    let bytes = json::read_bytes(path, LARGEST_CONFIG)?;
    serde_json::from_slice(&bytes).map_err(|e| in_file(path, ConfigError::Json(e)))
}

/// What `raw`, the `config.json` of `dir`, and the `generation_config.json` beside it say.
pub(crate) fn parse(dir: &Path, raw: &Value) -> Result<(ModelConfig, Option<Quantization>)> {
    let path = dir.join(CONFIG);
    let mut config = ModelConfig::from_json(raw).map_err(|e| in_file(&path, e))?;
    let quantization = Quantization::from_json(raw).map_err(|e| in_file(&path, e))?;
    let path = dir.join(GENERATION_CONFIG);
    if path.exists() {
        let generation = read(&path)?;
        config
            .merge_generation(&generation)
            .map_err(|e| in_file(&path, e))?;
    }
    Ok((config, quantization))
}

fn in_file(file: &Path, reason: ConfigError) -> Error {
    Error::Config {
        file: file.to_owned(),
        reason,
    }
}
