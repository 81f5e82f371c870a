//! What a group-quantized checkpoint is to be like.

use serde::{Deserialize, Serialize};
use treillage_checkpoint::{Dtype, Export, ModelConfig};
use treillage_gptq::{Config, Format, IntBits, MxRule, Rotation, ScaleRule, ScaleType, Solver};
use treillage_linalg::Damping;
use treillage_model::plan::{LinearPlan, ModelPlan};

use crate::{Error, RotationRule, rotation, serde_foreign as foreign};

/// What a group-quantized checkpoint is to be like. Embedding, norms, routers and head keep their 16 bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GptqOptions {
    /// The numbers that weights become.
    #[serde(with = "foreign::name")]
    pub format: Format,
    /// Weights along the input axis that share a scale. NVFP4 and MXFP4 have their own.
    pub group: usize,
    /// What inputs are rotated with. Where the files cannot say so, the rotation is folded into the model.
    pub rotation: RotationRule,
    /// How codes are chosen.
    #[serde(with = "foreign::SolverName")]
    pub solver: Solver,
    /// How scales are chosen.
    #[serde(with = "foreign::ScaleRuleName")]
    pub scales: ScaleRule,
    /// Whether inputs are swept in order of their activity. Groups stay those of the original order.
    pub act_order: bool,
    /// The layout of the files.
    #[serde(with = "foreign::name")]
    pub export: Export,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self::new(Format::Int(IntBits::Four))
    }
}

impl GptqOptions {
    /// The best that is known for `format`, in the layout that most engines load.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            group: format.default_group(),
            rotation: RotationRule::Auto,
            solver: Solver::Gptq,
            scales: ScaleRule::Mse,
            act_order: true,
            export: Self::default_export(format),
        }
    }

    /// compressed-tensors, where it has the format.
    pub fn default_export(format: Format) -> Export {
        match Export::CompressedTensors.holds(format) {
            true => Export::CompressedTensors,
            false => Export::Gptq,
        }
    }

    /// Whether linears say themselves how their inputs are rotated; otherwise the model has to be folded.
    pub(crate) fn rotates_online(&self) -> bool {
        self.export.holds_rotations()
    }

    /// Bits per weight in the files, scales included.
    pub(crate) fn bits_per_weight(&self) -> f64 {
        let scale_bits = match self.format {
            Format::Int(_) | Format::Fp4 => 16,
            Format::NvFp4 | Format::MxFp4 => 8,
        };
        self.format.element().bits() as f64 + f64::from(scale_bits) / self.group as f64
    }

    /// The solver's settings for an unrotated linear of the model that `model` describes.
    pub(crate) fn config(&self, damping: f32, model: &ModelConfig) -> Config {
        Config {
            group: self.group,
            scales: self.scales,
            // Engines turn these scales to the type of the model's activations; GPTQ's are of half precision.
            scale_type: match (self.export, model.dtype) {
                (Export::CompressedTensors, Some(Dtype::Bf16)) => ScaleType::Bf16,
                _ => ScaleType::F16,
            },
            mx_rule: match self.export {
                Export::FpQuant => MxRule::FpQuant,
                _ => MxRule::CompressedTensors,
            },
            solver: self.solver,
            act_order: self.act_order,
            damping: Damping::new(damping),
            ..Config::new(self.format)
        }
    }

    /// Rotations of a linear's own inputs that there are kernels for, none included, if they fit every linear of
    /// `plan`: files name one size for the whole model.
    pub(crate) fn online_candidates(&self, plan: &ModelPlan) -> Vec<Rotation> {
        let fits = |rotation: &Rotation| {
            self.has_kernels(*rotation)
                && linears(plan).all(|linear| {
                    linear
                        .shape
                        .in_features
                        .is_multiple_of(rotation::block(*rotation))
                })
        };
        let blocks = Rotation::BLOCKS.map(Rotation::Block);
        let all = [Rotation::None].into_iter().chain(blocks);
        all.filter(fits).collect()
    }

    /// A rotation must not be narrower than the groups of MXFP4.
    fn has_kernels(&self, rotation: Rotation) -> bool {
        match rotation {
            Rotation::None => true,
            Rotation::Block(block) => self.format != Format::MxFp4 || block >= self.group,
        }
    }

    /// Refuses what cannot be made of the model that `plan` describes.
    pub(crate) fn check(&self, plan: &ModelPlan) -> Result<(), Error> {
        let (format, export) = (self.format, self.export);
        if !export.holds(format) {
            return Err(Error::Export { format, export });
        }
        if !format.has_free_group() && self.group != format.default_group() {
            return Err(Error::FixedGroup {
                format,
                expected: format.default_group(),
                found: self.group,
            });
        }
        for linear in linears(plan) {
            let (prefix, shape) = (&linear.prefix, linear.shape);
            if self.group < 2
                || !self.group.is_multiple_of(2)
                || !shape.in_features.is_multiple_of(self.group)
            {
                return Err(Error::Group {
                    linear: prefix.clone(),
                    group: self.group,
                    width: shape.in_features,
                    fitting: format
                        .has_free_group()
                        .then(|| fitting_group(plan))
                        .flatten(),
                });
            }
            let whole_words = |width: usize| width.is_multiple_of(GPTQ_WORD);
            if export == Export::Gptq
                && !(whole_words(shape.in_features) && whole_words(shape.out_features))
            {
                return Err(Error::GptqShape {
                    linear: prefix.clone(),
                    shape: [shape.out_features, shape.in_features],
                });
            }
            if let RotationRule::Fixed(rotation) = self.rotation
                && self.rotates_online()
            {
                if !self.has_kernels(rotation) {
                    let block = rotation::block(rotation);
                    return Err(Error::RotationBelowGroup { format, block });
                }
                rotation::check(rotation, prefix, shape.in_features)?;
            }
        }
        Ok(())
    }
}

/// Both axes of a linear in GPTQ's layout are packed, in words of 32 bits.
const GPTQ_WORD: usize = 32;

/// What is quantized of a model.
fn linears(plan: &ModelPlan) -> impl Iterator<Item = &LinearPlan> {
    plan.blocks.iter().flat_map(|block| &block.linears)
}

/// The largest usual group that fits every linear.
fn fitting_group(plan: &ModelPlan) -> Option<usize> {
    let fits = |group: &usize| linears(plan).all(|l| l.shape.in_features.is_multiple_of(*group));
    [128, 64, 32, 16, 8].into_iter().find(fits)
}
