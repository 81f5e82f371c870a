//! What the JSON files of a quantized checkpoint say about it.

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::Value;
use treillage_trellis::{Codebook, OutScales};

use super::{assemble::StoredModule, exl3::Exl3Settings};
use crate::{Checkpoint, Quantization, TensorView};

/// A quantized checkpoint about to be finished.
pub(super) struct Description<'a> {
    modules: &'a [StoredModule<'a>],
    summary: Summary,
}

/// `quantization_config` of `config.json`, as ExLlamaV3 spells it.
#[derive(Serialize)]
pub(super) struct Summary {
    quant_method: &'static str,
    producer: &'static str,
    version: &'static str,
    /// Average over the weights of all quantized linears but the head, rounded to two digits.
    bits: f64,
    /// 16 if the head is not quantized.
    head_bits: usize,
    calibration: Calibration,
    out_scales: &'static str,
    codebook: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_quantization_config: Option<Value>,
}

#[derive(Clone, Copy, Serialize)]
struct Calibration {
    rows: usize,
    cols: usize,
}

/// `quantization_config.json`: the summary and all tensors.
#[derive(Serialize)]
pub(super) struct ExLlama<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    tensor_storage: Storage<'a>,
}

/// `quantize_config.json`: where GPTQModel looks first. It wants its own names for the format, no rate above 8, and
/// no module that is not quantized.
#[derive(Serialize)]
pub(super) struct GptqModel<'a> {
    method: &'static str,
    quant_method: &'static str,
    format: &'static str,
    checkpoint_format: &'static str,
    bits: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_bits: Option<usize>,
    calibration: Calibration,
    out_scales: &'static str,
    codebook: &'static str,
    tensor_storage: Storage<'a>,
}

impl<'a> Description<'a> {
    pub(super) fn new(
        settings: &Exl3Settings,
        modules: &'a [StoredModule<'a>],
        source: &Checkpoint,
    ) -> Self {
        let original = match source.quantization() {
            None | Some(Quantization::Exl3) => None,
            Some(_) => source.raw_config().get("quantization_config").cloned(),
        };
        let is_head = |module: &&StoredModule<'_>| module.name == "lm_head";
        let head = modules.iter().find(is_head).and_then(trellis_bits);
        let summary = Summary {
            quant_method: "exl3",
            producer: "treillage",
            version: env!("CARGO_PKG_VERSION"),
            bits: average_bits(modules.iter().filter(|module| !is_head(module))),
            head_bits: head.unwrap_or(16),
            calibration: Calibration {
                rows: settings.calibration_rows,
                cols: settings.calibration_cols,
            },
            out_scales: out_scales_name(settings.out_scales),
            codebook: settings.codebook.name(),
            original_quantization_config: original,
        };
        Self { modules, summary }
    }

    pub(super) fn summary(&self) -> &Summary {
        &self.summary
    }

    pub(super) fn exllama(&self) -> ExLlama<'_> {
        ExLlama {
            summary: &self.summary,
            tensor_storage: Storage {
                modules: self.modules,
                quantized_only: false,
            },
        }
    }

    pub(super) fn gptq_model(&self) -> GptqModel<'_> {
        GptqModel {
            method: "exl3",
            quant_method: "exl3",
            format: "exl3",
            checkpoint_format: "exl3",
            bits: self.summary.bits,
            head_bits: Some(self.summary.head_bits).filter(|&bits| bits <= 8),
            calibration: self.summary.calibration,
            out_scales: self.summary.out_scales,
            codebook: self.summary.codebook,
            tensor_storage: Storage {
                modules: self.modules,
                quantized_only: true,
            },
        }
    }
}

pub(super) fn out_scales_name(out_scales: OutScales) -> &'static str {
    match out_scales {
        OutScales::Always => "always",
        OutScales::Never => "never",
        OutScales::Auto => "auto",
    }
}

/// Bits per weight of a trellis-coded linear, from the shape of its tensor.
fn trellis_bits(module: &StoredModule<'_>) -> Option<usize> {
    let words_per_tile = module.tensor("trellis")?.shape().last()?;
    Some(words_per_tile / 16)
}

/// Bits per weight over all trellis-coded linears of `modules`, to two digits; 16 if there is none.
fn average_bits<'a>(modules: impl Iterator<Item = &'a StoredModule<'a>>) -> f64 {
    let (mut bits, mut weights) = (0, 0);
    for module in modules {
        if let (Some(trellis), Some(rate)) = (module.tensor("trellis"), trellis_bits(module)) {
            bits += 8 * trellis.bytes().len();
            weights += 8 * trellis.bytes().len() / rate;
        }
    }
    match weights {
        0 => 16.0,
        weights => (100.0 * bits as f64 / weights as f64).round() / 100.0,
    }
}

/// `tensor_storage`: a map over modules.
struct Storage<'a> {
    modules: &'a [StoredModule<'a>],
    quantized_only: bool,
}

impl Serialize for Storage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let modules = self.modules.iter().filter_map(|module| {
            let bits_per_weight = trellis_bits(module);
            if self.quantized_only && bits_per_weight.is_none() {
                return None;
            }
            let multiplier = |codebook: Codebook| {
                module.tensor(codebook.name())?;
                codebook.flag()
            };
            let entry = StoredModuleEntry {
                stored_tensors: StoredTensors(&module.tensors),
                quant_format: bits_per_weight.map(|_| "exl3"),
                bits_per_weight,
                mcg_multiplier: multiplier(Codebook::Mcg),
                mul1_multiplier: multiplier(Codebook::Mul1),
            };
            Some((module.name, entry))
        });
        let mut map = serializer.serialize_map(None)?;
        for (name, entry) in modules {
            map.serialize_entry(name, &entry)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct StoredModuleEntry<'a> {
    stored_tensors: StoredTensors<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quant_format: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bits_per_weight: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mcg_multiplier: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mul1_multiplier: Option<u32>,
}

struct StoredTensors<'a>(&'a [TensorView<'a>]);

#[derive(Serialize)]
struct StoredTensor<'a> {
    shape: &'a [usize],
    n_bytes: usize,
    /// ExLlamaV3's spelling…
    dtype: String,
    /// …and GPTQModel's.
    torch_dtype: &'a str,
}

impl Serialize for StoredTensors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|tensor| {
            let torch_dtype = tensor.dtype().torch_name().unwrap_or_default();
            let entry = StoredTensor {
                shape: tensor.shape(),
                n_bytes: tensor.bytes().len(),
                dtype: format!("torch.{torch_dtype}"),
                torch_dtype,
            };
            (tensor.name(), entry)
        }))
    }
}
