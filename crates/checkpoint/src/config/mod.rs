//! `config.json` and `generation_config.json`: what the model is.

mod feed_forward;
mod fields;
mod limit;
mod mixer;
mod model;
mod quantization;

use std::{fmt, path::Path};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

pub use feed_forward::{FeedForward, Moe, Scoring, SharedExpert};
pub use mixer::{Attention, DeltaNet, LatentAttention, Mixer};
pub use model::{Architecture, ModelConfig};
pub use quantization::{FpQuantDtype, GptqVersion, Quantization};

use crate::{Error, json};

/// Name of the configuration.
pub(crate) const CONFIG: &str = "config.json";
/// Name of the defaults for generating text.
const GENERATION_CONFIG: &str = "generation_config.json";
/// Largest configuration accepted, in bytes. They are of a few thousand, unless a description of all tensors was put
/// into them.
const LARGEST_CONFIG: u64 = 64 << 20;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or JSON but no object.
    #[error("not a valid JSON object: {0}")]
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

/// Refuses a list that has not one entry per block.
fn one_per_layer<T>(field: &'static str, list: &[T], num_layers: usize) -> Result<(), ConfigError> {
    if list.len() == num_layers {
        return Ok(());
    }
    Err(ConfigError::Implausible {
        field,
        value: format!("a list of {}", list.len()),
        expected: format!("one entry for each of {num_layers} blocks"),
    })
}

/// The JSON object in the file `path`, without any `tensor_storage`.
pub(crate) fn read(path: &Path) -> crate::Result<Value> {
    let bytes = json::read_bytes(path, LARGEST_CONFIG)?;
    match serde_json::from_slice(&bytes) {
        Ok(Brief(config)) => Ok(Value::Object(config)),
        Err(error) => Err(in_file(path, ConfigError::Json(error))),
    }
}

/// A JSON object without the descriptions of all tensors that some writers put into the configuration: they can be
/// larger than everything else together, and the tensors say the same.
struct Brief(Map<String, Value>);

impl<'de> Deserialize<'de> for Brief {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Brief;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Brief, A::Error> {
                let mut fields = Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = match key.as_str() {
                        "tensor_storage" => {
                            map.next_value::<de::IgnoredAny>()?;
                            continue;
                        }
                        "quantization_config" => match map.next_value()? {
                            Some(Brief(inner)) => Value::Object(inner),
                            None => Value::Null,
                        },
                        _ => map.next_value()?,
                    };
                    fields.insert(key, value);
                }
                Ok(Brief(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// What `raw`, the `config.json` of `dir`, and the `generation_config.json` beside it say.
pub(crate) fn parse(dir: &Path, raw: &Value) -> crate::Result<(ModelConfig, Option<Quantization>)> {
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
