use treillage_linalg::Damping;

use crate::Format;

/// How a linear is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The numbers that weights become.
    pub format: Format,
    /// Weights along the input axis that share a scale.
    pub group: usize,
    /// Integers only: whether zero is the middle code, or chosen per group.
    pub symmetric: bool,
    /// How scales are chosen.
    pub scales: ScaleRule,
    /// NVFP4 only, with [`ScaleRule::Mse`]: also try scales that put a group's largest magnitude at 4 instead of 6.
    pub four_over_six: bool,
    /// The type of scales that are 16-bit floats.
    pub scale_type: ScaleType,
    /// MXFP4 only: what powers of two a file can hold.
    pub mx_rule: MxRule,
    /// NVFP4 only: the matrix's factor `G`, for linears that must share one; by default `448 · 6 / max |W|` of the
    /// rotated matrix.
    pub global_scale: Option<f32>,
    /// How codes are chosen.
    pub solver: Solver,
    /// Whether inputs are swept in order of descending `diag H`. Groups stay those of the original order.
    pub act_order: bool,
    /// What is added to the Hessian's diagonal.
    pub damping: Damping,
    /// What the inputs are rotated with.
    pub rotation: Rotation,
}

impl Config {
    /// GPTQ in activation order with damping 0.01 and scales of least error, unrotated.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            group: format.default_group(),
            symmetric: true,
            scales: ScaleRule::Mse,
            four_over_six: true,
            scale_type: ScaleType::F16,
            mx_rule: MxRule::Ocp,
            global_scale: None,
            solver: Solver::Gptq,
            act_order: true,
            damping: Damping::new(0.01),
            rotation: Rotation::None,
        }
    }
}

/// How a group's scale is chosen. Only scales that the file can hold are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ScaleRule {
    /// By the group's largest magnitude.
    Minmax,
    /// By the least error of rounding the group to it.
    #[default]
    Mse,
}

/// Types of scales that are floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ScaleType {
    /// IEEE half precision.
    #[default]
    F16,
    /// bfloat16.
    Bf16,
}

/// How MXFP4's powers of two come from a group's largest magnitude `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MxRule {
    /// `2^(⌊log2 a⌋ − 2)` (OCP MX 1.0): the largest may be clipped.
    #[default]
    Ocp,
    /// As OCP, after rounding `a` up to a power of two where its significand is 1.75 or more (compressed-tensors).
    CompressedTensors,
    /// `2^⌊log2 a⌋ / 3`, for files with a factor for the matrix (FP-Quant): never clips.
    FpQuant,
}

/// How codes are chosen, the scales given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Solver {
    /// To nearest, each weight by itself.
    Rtn,
    /// Each weight makes up for the errors of those before it (GPTQ, arXiv 2210.17323).
    #[default]
    Gptq,
}

/// A block-diagonal Hadamard rotation of a linear's inputs: `y = (x R) (W R)ᵀ`. `R` is its own inverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Rotation {
    /// Inputs are as they are.
    #[default]
    None,
    /// Runs of this many inputs are rotated together: 16, 32, 64 or 128.
    Block(usize),
}

impl Rotation {
    /// The sizes that there are.
    pub const BLOCKS: [usize; 4] = [16, 32, 64, 128];
}
