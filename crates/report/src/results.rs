//! What artifacts hold, measurement by measurement. Fields that this report does not use are ignored; those that came later than
//! the first artifacts are optional.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor: the baseline of MR-GPTQ.
    Cpu,
    /// A GPU.
    Gpu,
}

/// Which way a model was run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// The plain one, which is there to compare with.
    Baseline,
    /// The one that `treillage generate` takes. Artifacts that do not say have it: there was no other.
    #[default]
    Optimized,
}

/// How bits are spread over a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// Every linear has the same, the head aside. Artifacts that do not say have this: there was no other.
    #[default]
    Uniform,
    /// Linears have different ones.
    Mixed,
}

impl Device {
    /// As artifacts write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
        }
    }
}

impl Path {
    /// As artifacts write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Optimized => "optimized",
        }
    }
}

impl Spread {
    /// As artifacts write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Mixed => "mixed",
        }
    }
}

/// Settings of `decode`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DecodeSettings {
    /// Name of the model's sizes.
    pub preset: String,
    /// Transformer blocks that were measured.
    pub layers: usize,
    /// Blocks that the model has.
    pub model_layers: Option<usize>,
    /// Tokens of the vocabulary that were measured.
    pub vocabulary: usize,
    /// Tokens of the vocabulary that the model has.
    pub model_vocabulary: Option<usize>,
    /// What linears are made of.
    pub format: String,
    /// Bits per weight of trellis codes: a number, or whatever says more of mixed ones.
    pub bits: Value,
    /// Bits of the head, of trellis codes.
    pub head_bits: Option<u32>,
    /// Codebook of trellis codes.
    pub codebook: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens decoded after it.
    pub decoded_tokens: usize,
}

/// A result of `decode`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DecodeResult {
    /// What computed, in the backend's words.
    pub device: String,
    /// How linears were multiplied.
    pub arithmetic: Option<String>,
    /// Which way it went.
    #[serde(default)]
    pub path: Path,
    /// How bits are spread.
    #[serde(default)]
    pub bits: Spread,
    /// Bits per weight, where results of one artifact differ in it.
    pub bpw: Option<Value>,
    /// Seconds from one token to the next, of the median token.
    pub token_seconds_median: f64,
    /// Of the median run.
    pub decode_tokens_per_second: f64,
    /// Bytes a second of a kernel that copies.
    pub copy_bytes_per_second: Option<f64>,
    /// Operations a second of a kernel that multiplies and adds in f32.
    pub f32_operations_per_second: Option<f64>,
    /// By part (`prefill`, `decode`), the kernels that it was made of.
    pub profiles: Option<Map<String, Value>>,
    /// What the backend counted.
    pub telemetry: Option<Value>,
}

/// A kernel in a profile, for a token or a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Its name.
    pub kernel: String,
    /// How often it ran.
    pub dispatches: f64,
    /// How long.
    pub seconds: f64,
    /// What it had to move at the least.
    pub bytes: f64,
    /// What it had to compute at the least.
    pub operations: f64,
}

/// A result of `gptq`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GptqResult {
    /// The linear.
    pub workload: String,
    /// Its outputs.
    pub outputs: usize,
    /// Its inputs.
    pub inputs: usize,
    /// The format that it was quantized to.
    pub format: String,
    /// What computed.
    #[serde(default = "cpu")]
    pub device: Device,
    /// Times of it.
    pub ours: GptqTimes,
}

fn cpu() -> Device {
    Device::Cpu
}

/// Milliseconds of a [`GptqResult`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GptqTimes {
    /// Of the median run, stage by stage.
    pub median: StageTimes,
}

/// Milliseconds of the stages of quantizing one linear.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct StageTimes {
    /// From activations to their second moment.
    pub hessian_ms: f64,
    /// Rotating, ordering, damping and factorizing it.
    pub cholesky_ms: f64,
    /// Scales, sweep, packed codes.
    pub quantize_ms: f64,
    /// All of it.
    pub total_ms: f64,
}

/// A result of `suite`: a measurement that was asked for, and what became of it. Fields that are `None` stand for any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What was measured.
    pub measurement: String,
    /// Where.
    pub device: Option<Device>,
    /// The preset or workload.
    pub preset: Option<String>,
    /// The way.
    pub path: Option<Path>,
    /// The spread of bits.
    pub bits: Option<Spread>,
    /// The command that does it alone.
    pub command: Option<String>,
    /// What was left out of it to save time or memory.
    pub cut: Option<String>,
    /// Name of the artifact beside this one.
    pub artifact: Option<String>,
    /// Why there is no artifact.
    pub unavailable: Option<String>,
}
