use serde_json::Value;
use treillage_gptq::IntBits;

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
    /// compressed-tensors: integers, NVFP4 and MXFP4 with a scale per group. The tensors say which.
    CompressedTensors {
        /// Widths of integer codes that occur, for rows too short to tell theirs.
        bits: Vec<IntBits>,
    },
    /// FP-Quant: rotated weights in four-bit floats.
    FpQuant {
        /// Which floats.
        forward: FpQuantDtype,
    },
    /// Classic GPTQ.
    Gptq {
        /// Width of a code, unless its tensors say another.
        bits: IntBits,
        /// How zeros are stored.
        version: GptqVersion,
    },
}

/// `checkpoint_format` of GPTQ checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum GptqVersion {
    /// `gptq`: `qzeros` hold one less than the zeros. What engines expect.
    #[default]
    V1,
    /// `gptq_v2`: `qzeros` hold the zeros.
    V2,
}

impl GptqVersion {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            GptqVersion::V1 => "gptq",
            GptqVersion::V2 => "gptq_v2",
        }
    }
}

/// `forward_dtype` of FP-Quant checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FpQuantDtype {
    /// A scale in E4M3 per 16 weights.
    NvFp4,
    /// A power of two per 32 weights.
    MxFp4,
}

impl Quantization {
    /// Its `quant_method`.
    pub fn name(&self) -> &'static str {
        match self {
            Quantization::Exl3 => "exl3",
            Quantization::Fp8 { .. } => "fp8",
            Quantization::CompressedTensors { .. } => "compressed-tensors",
            Quantization::FpQuant { .. } => "fp_quant",
            Quantization::Gptq { .. } => "gptq",
        }
    }

    /// Reads it from a whole `config.json`; `None` if the weights are not quantized.
    ///
    /// # Errors
    /// [`ConfigError`] for other methods than these, and for what of them is not implemented.
    pub fn from_json(config: &Value) -> Result<Option<Self>, ConfigError> {
        let Some(fields) = Fields::new(config)?.object("quantization_config")? else {
            return Ok(None);
        };
        let quantization = match required("quant_method", fields.text("quant_method")?)? {
            "exl3" => Quantization::Exl3,
            "fp8" => fp8(fields)?,
            "compressed-tensors" => compressed_tensors(fields)?,
            "fp_quant" => fp_quant(fields)?,
            "gptq" => gptq(fields)?,
            other => {
                return Err(unsupported(
                    "quant_method",
                    other,
                    "`exl3`, `fp8`, `compressed-tensors`, `fp_quant` and `gptq`",
                ));
            }
        };
        Ok(Some(quantization))
    }
}

fn fp8(fields: Fields<'_>) -> Result<Quantization, ConfigError> {
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
    Ok(Quantization::Fp8 { block })
}

/// Layouts of compressed-tensors that are read. `float-quantized` is FP8 with scales, `naive-quantized` and
/// `mixed-precision` are whichever of the others the tensors are.
const LAYOUTS: [&str; 8] = [
    "pack-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mixed-precision",
    "dense",
];

fn compressed_tensors(fields: Fields<'_>) -> Result<Quantization, ConfigError> {
    check_layout(fields)?;
    if let Some(sparsity) = fields.object("sparsity_config")? {
        check_layout(sparsity)?;
    }
    if let Some(transforms) = fields.object("transform_config")?
        && transforms
            .object("config_groups")?
            .is_some_and(|groups| !groups.is_empty())
    {
        return Err(unsupported(
            "transform_config",
            "a rotation of inputs or outputs",
            "unrotated linears",
        ));
    }
    let mut bits = Vec::new();
    if let Some(groups) = fields.object("config_groups")? {
        for group in groups.objects("config_groups")? {
            check_layout(group)?;
            let Some(weights) = group.object("weights")? else {
                continue;
            };
            let kind = weights.text("type")?.unwrap_or("int");
            let width = weights.size("num_bits", 64)?;
            match (kind, width) {
                ("int", Some(width)) => bits.extend(int_bits("num_bits", width).map(Some)?),
                ("int" | "float", _) => {}
                (other, _) => return Err(unsupported("type", other, "`int` and `float`")),
            }
        }
    }
    bits.dedup();
    Ok(Quantization::CompressedTensors { bits })
}

fn check_layout(fields: Fields<'_>) -> Result<(), ConfigError> {
    match fields.text("format")? {
        Some(layout) if !LAYOUTS.contains(&layout) => Err(unsupported(
            "format",
            layout,
            "pack-quantized, nvfp4-pack-quantized, mxfp4-pack-quantized, int-quantized and float-quantized",
        )),
        _ => Ok(()),
    }
}

fn fp_quant(fields: Fields<'_>) -> Result<Quantization, ConfigError> {
    let forward = match required("forward_dtype", fields.text("forward_dtype")?)? {
        "nvfp4" => FpQuantDtype::NvFp4,
        "mxfp4" => FpQuantDtype::MxFp4,
        other => return Err(unsupported("forward_dtype", other, "`nvfp4` and `mxfp4`")),
    };
    Ok(Quantization::FpQuant { forward })
}

fn gptq(fields: Fields<'_>) -> Result<Quantization, ConfigError> {
    let bits = required("bits", fields.size("bits", 64)?)?;
    let version = match fields.text("checkpoint_format")? {
        None | Some("gptq") => GptqVersion::V1,
        Some("gptq_v2") => GptqVersion::V2,
        Some(other) => {
            return Err(unsupported(
                "checkpoint_format",
                other,
                "`gptq` and `gptq_v2`",
            ));
        }
    };
    if let Some(words) = fields.text("pack_dtype")?
        && words != "int32"
    {
        return Err(unsupported("pack_dtype", words, "`int32`"));
    }
    if fields.flag("is_marlin_format")? == Some(true) {
        return Err(unsupported("is_marlin_format", "true", "`false`"));
    }
    Ok(Quantization::Gptq {
        bits: int_bits("bits", bits)?,
        version,
    })
}

fn int_bits(field: &'static str, width: usize) -> Result<IntBits, ConfigError> {
    match width {
        2 => Ok(IntBits::Two),
        3 => Ok(IntBits::Three),
        4 => Ok(IntBits::Four),
        8 => Ok(IntBits::Eight),
        _ => Err(unsupported(field, &width.to_string(), "2, 3, 4 and 8")),
    }
}

fn unsupported(field: &'static str, value: &str, supported: &'static str) -> ConfigError {
    ConfigError::Unsupported {
        field,
        value: quoted(value),
        supported,
    }
}
