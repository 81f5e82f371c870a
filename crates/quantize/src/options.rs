use serde::{Deserialize, Serialize};
use treillage_backend::RouteWeighting;
use treillage_trellis::viterbi::Effort;
use treillage_trellis::{Bits, Codebook, EncodeConfig, HessianMetric, OutScales};

use crate::{Error, GptqOptions, serde_foreign as foreign};

/// What to make of a checkpoint. Serialisable, so that a run can be repeated and a resumed one compared with its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// What linears become.
    #[serde(flatten)]
    pub method: Method,
    /// Seed of whatever is random: the signs of every trellis-coded linear.
    #[serde(default)]
    pub seed: u64,
    /// How errors are measured and tokens counted.
    #[serde(default)]
    pub recipe: Recipe,
    /// Bytes that the host's memory may hold, and the device's: where what is gathered of all experts' inputs does not fit, the
    /// calibration rows go through a block several times. It says nothing of what becomes of the checkpoint, and is not part of it.
    #[serde(skip)]
    pub memory: Option<u64>,
}

impl Options {
    /// Trellis codes by our recipe.
    pub fn trellis(options: TrellisOptions) -> Self {
        Self {
            method: Method::Trellis(options),
            ..Self::default()
        }
    }

    /// Codes with a scale per group by our recipe.
    pub fn mr_gptq(options: GptqOptions) -> Self {
        Self {
            method: Method::MrGptq(options),
            recipe: Recipe::mr_gptq(),
            ..Self::default()
        }
    }

    /// Refuses numbers that make no sense; the rates check themselves.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let shrinkage = match self.recipe.experts {
            ExpertTokens::Routed { shrinkage, .. } => shrinkage,
            ExpertTokens::All => 0.0,
        };
        for (name, value) in [
            ("damping", f64::from(self.recipe.damping)),
            ("shrinkage", shrinkage),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::Setting { name, value });
            }
        }
        Ok(())
    }
}

/// What linears become. All else about a run is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Method {
    /// Trellis codes, in the EXL3 format.
    Trellis(TrellisOptions),
    /// Integers or four-bit floats with a scale per group, in the formats of other engines.
    MrGptq(GptqOptions),
}

impl Default for Method {
    fn default() -> Self {
        Self::Trellis(TrellisOptions::default())
    }
}

impl Method {
    /// Whether the head is encoded too.
    pub(crate) fn encodes_head(&self) -> bool {
        match self {
            Method::Trellis(options) => options.head_bits != HeadBits::Keep,
            Method::MrGptq(_) => false,
        }
    }
}

/// What a trellis-coded checkpoint is to be like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrellisOptions {
    /// Average over the linears of all blocks, 1 to 8; what each gets is up to [`allocation`](Self::allocation).
    pub bits_per_weight: f64,
    /// How that average is spent.
    pub allocation: AllocationRule,
    /// Whether all experts of a layer get one rate for their gates, one for their ups and one for their downs, as
    /// ExLlamaV3 wants it.
    pub uniform_experts: bool,
    /// Rate of the head, which is outside that average.
    pub head_bits: HeadBits,
    /// One codebook for the whole model: kernels that take several linears at once want that.
    #[serde(with = "foreign::name")]
    pub codebook: Codebook,
    /// Whether each output channel gets a scale of its own.
    #[serde(with = "foreign::OutScalesName")]
    pub out_scales: OutScales,
    /// How thoroughly codes are searched for.
    #[serde(with = "foreign::name")]
    pub effort: Effort,
}

impl Default for TrellisOptions {
    fn default() -> Self {
        Self {
            bits_per_weight: 3.0,
            allocation: AllocationRule::default(),
            uniform_experts: false,
            head_bits: HeadBits::default(),
            codebook: Codebook::default(),
            out_scales: OutScales::default(),
            effort: Effort::default(),
        }
    }
}

impl TrellisOptions {
    /// The encoder's settings for the linear stored under `prefix`.
    pub(crate) fn config(
        &self,
        prefix: &str,
        bits: Bits,
        recipe: &Recipe,
        seed: u64,
    ) -> EncodeConfig {
        EncodeConfig {
            out_scales: self.out_scales,
            metric: recipe.metric,
            refit: recipe.refit,
            damping: recipe.damping,
            effort: self.effort,
            ..EncodeConfig::new(
                bits,
                self.codebook,
                seed ^ crate::hash::fnv1a(prefix.as_bytes()),
            )
        }
    }
}

/// How an average of bits per weight is spent over linears that take whole ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllocationRule {
    /// Where it saves most: what errors in each linear cost is measured first, on some calibration rows, and spent
    /// upon by [`treillage_moe::least_loss`].
    #[default]
    Sensitivity,
    /// The whole part for all, the rest by [`treillage_moe::allocate`]: attention first, then networks that all tokens pass, then
    /// experts, the ends of the model before its middle. What ExLlamaV3 does.
    Position,
    /// The whole part for all; the rest is not spent.
    Uniform,
}

/// Rate of the head: trellis codes, or as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum HeadBits {
    /// Trellis codes of this rate.
    Trellis(Bits),
    /// 16 bits: the weights are not touched.
    Keep,
}

impl Default for HeadBits {
    /// Six bits: the head's error goes straight into the logits.
    fn default() -> Self {
        Self::Trellis(Bits::new(6).unwrap_or(Bits::MAX))
    }
}

impl TryFrom<u8> for HeadBits {
    type Error = Error;

    /// 1 to 8, or 16 for [`HeadBits::Keep`].
    fn try_from(bits: u8) -> Result<Self, Error> {
        match bits {
            16 => Ok(Self::Keep),
            _ => Bits::new(usize::from(bits))
                .map(Self::Trellis)
                .map_err(|_| Error::HeadBits(bits)),
        }
    }
}

impl From<HeadBits> for u8 {
    fn from(bits: HeadBits) -> u8 {
        match bits {
            HeadBits::Trellis(bits) => bits.get() as u8,
            HeadBits::Keep => 16,
        }
    }
}

/// How the error of a linear is measured, and by which tokens.
///
/// [`Recipe::treillage`] is the default; [`Recipe::original`] is what ExLlamaV3 does, to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Trellis only: what part of a linear's input scale its Hessian is rotated with.
    #[serde(with = "foreign::HessianMetricName")]
    pub metric: HessianMetric,
    /// Trellis only: whether input and output scales are refitted after encoding.
    pub refit: bool,
    /// Added to the Hessian's diagonal, as a fraction of its mean.
    pub damping: f32,
    /// When a block's inputs are captured.
    pub capture: Capture,
    /// Whose tokens an expert is calibrated with.
    pub experts: ExpertTokens,
}

impl Recipe {
    /// The full-scale Hessian, refitted scales, each linear calibrated on what it will read: the outputs of linears
    /// already quantized, and for an expert the tokens routed to it.
    pub fn treillage() -> Self {
        Self {
            metric: HessianMetric::FullScale,
            refit: true,
            damping: 0.025,
            capture: Capture::Staged,
            experts: ExpertTokens::shrunk(),
        }
    }

    /// [`treillage`](Self::treillage) with the damping that GPTQ is used to.
    pub fn mr_gptq() -> Self {
        Self {
            damping: 0.01,
            ..Self::treillage()
        }
    }

    /// ExLlamaV3's: the Hessian rotated by signs, no refit, one capture before anything in the block is quantized,
    /// every token through every expert.
    pub fn original() -> Self {
        Self {
            metric: HessianMetric::SignsOnly,
            refit: false,
            damping: 0.025,
            capture: Capture::Once,
            experts: ExpertTokens::All,
        }
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Self::treillage()
    }
}

/// When the inputs of a block's linears are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// All in one pass through the unquantized block.
    Once,
    /// One pass for each stage of the block – q, k, v; attention output; gate, up; down – after the stages before it
    /// were quantized, so that each makes up for the errors of those.
    Staged,
}

/// Which tokens an expert's Hessian is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "tokens")]
pub enum ExpertTokens {
    /// All of them, whatever the router says: gate and up share the layer's Hessian, down gets its own.
    All,
    /// Those routed to it, drawn toward the average of the layer, so that an expert which few tokens reach is still
    /// encoded with a usable Hessian: `H_e ← (T_e H_e + τ H_layer) / (T_e + τ)`.
    Routed {
        /// How much a token counts.
        #[serde(with = "foreign::RouteWeightingName")]
        weighting: RouteWeighting,
        /// `τ`, as a multiple of the linear's input width.
        shrinkage: f64,
    },
}

impl ExpertTokens {
    /// Those routed to it, drawn toward the layer by as much as the linear's input width.
    pub fn shrunk() -> Self {
        Self::Routed {
            weighting: RouteWeighting::Squared,
            shrinkage: 1.0,
        }
    }

    /// Those routed to it alone.
    pub fn routed() -> Self {
        Self::Routed {
            weighting: RouteWeighting::Squared,
            shrinkage: 0.0,
        }
    }
}
