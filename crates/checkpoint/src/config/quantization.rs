use serde_json::Value;

use super::{
    ConfigError,
    fields::{Fields, required},
};
use crate::error::quoted;

/// How the weights of a checkpoint are quantized, after `quantization_config` in `config.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quantization {
    /// Trellis codes. Everything needed to decode them stands at the tensors.
    Exl3,
    /// 8-bit floats with scales.
    Fp8 {
        /// Rows and columns that share a scale; `None` if the scales are per tensor or row.
        block: Option<[usize; 2]>,
    },
}

impl Quantization {
    /// Reads it from a whole `config.json`; `None` if the weights are not quantized.
    ///
    /// # Errors
    /// [`ConfigError`] for methods other than `exl3` and `fp8`.
    pub fn from_json(config: &Value) -> Result<Option<Self>, ConfigError> {
        let Some(fields) = Fields::new(config)?.object("quantization_config")? else {
            return Ok(None);
        };
        match required("quant_method", fields.text("quant_method")?)? {
            "exl3" => Ok(Some(Quantization::Exl3)),
            "fp8" => {
                let block = match &fields.numbers("weight_block_size")?[..] {
                    [] => None,
                    &[rows, cols] if rows > 0 && cols > 0 => Some([rows as usize, cols as usize]),
                    _ => {
                        return Err(ConfigError::Type {
                            field: "weight_block_size",
                            expected: "two positive numbers",
                        });
                    }
                };
                Ok(Some(Quantization::Fp8 { block }))
            }
            other => Err(ConfigError::Unsupported {
                field: "quant_method",
                value: quoted(other),
                supported: "`exl3` and `fp8`",
            }),
        }
    }
}
