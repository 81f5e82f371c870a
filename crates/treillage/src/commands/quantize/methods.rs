//! What each method of quantization is told on the command line.

use anyhow::{Result, bail};
use clap::ValueEnum;
use treillage_checkpoint::Export;
use treillage_gptq::{Format, IntBits, ScaleRule, Solver};
use treillage_quantize::{
    AllocationRule, ExpertTokens, GptqOptions, HeadBits, Options, Recipe, RotationRule,
    TrellisOptions,
};
use treillage_trellis::viterbi::Effort;
use treillage_trellis::{Codebook, OutScales};

/// How weights are coded, and with what.
#[derive(clap::Args)]
pub(super) struct MethodArgs {
    /// How weights are coded
    #[arg(long, value_enum, default_value_t = Method::Trellis)]
    method: Method,
    /// By whose tokens an expert's errors are measured [default: shrunk]
    #[arg(long, value_enum)]
    expert_hessian: Option<ExpertHessian>,
    #[command(flatten)]
    trellis: TrellisArgs,
    #[command(flatten)]
    gptq: GptqArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Method {
    /// EXL3 trellis codes, 1 to 8 bits
    Trellis,
    /// Integers or four-bit floats with a scale per group, in the formats of other engines
    MrGptq,
}

#[derive(Clone, Copy, ValueEnum)]
enum ExpertHessian {
    /// Those routed to it, drawn toward the layer's where they are few
    Shrunk,
    /// Those routed to it alone
    Routed,
    /// All of them, through every expert
    All,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Trellis codes")]
struct TrellisArgs {
    /// Bits per weight, 1 to 8, averaged over the linears of all blocks [default: 3]
    #[arg(long, value_name = "B", allow_negative_numbers = true)]
    bpw: Option<f64>,
    /// How those bits are spent [default: sensitivity]
    #[arg(long, value_enum)]
    allocation: Option<AllocationChoice>,
    /// One rate for the gates of a layer's experts, one for their ups and one for their downs: ExLlamaV3 loads no other files.
    /// Without it each expert gets the rates it deserves; with --allocation position or uniform they agree anyway
    #[arg(long)]
    uniform_experts: bool,
    /// Bits of the head, 1 to 8, or 16 to keep it as it is [default: 6]
    #[arg(long, value_name = "B")]
    head_bits: Option<u8>,
    /// From trellis states to weights: mul1, mcg or 3inst [default: mul1]
    #[arg(long)]
    codebook: Option<Codebook>,
    /// Whether output channels get scales of their own [default: always]
    #[arg(long, value_enum)]
    out_scales: Option<ScaleChoice>,
    /// How thoroughly codes are searched for: fast, normal or best; fast takes five eighths of the work and adds 1.3 to 1.7 % to the
    /// error [default: best]
    #[arg(long)]
    effort: Option<Effort>,
    /// How errors are measured: our way, or ExLlamaV3's, to compare with [default: treillage]
    #[arg(long, value_enum)]
    recipe: Option<RecipeChoice>,
}

#[derive(clap::Args)]
#[command(next_help_heading = "MR-GPTQ")]
struct GptqArgs {
    /// What weights become: int2, int3, int4, int8, nvfp4 or mxfp4 [default: int4]
    #[arg(long)]
    format: Option<Format>,
    /// Weights that share a scale [default: 128 for integers; 16 is part of nvfp4, 32 of mxfp4]
    #[arg(long, value_name = "N")]
    group: Option<usize>,
    /// Inputs that are rotated together: 16, 32, 64, 128, none, or auto for what makes the least error [default: auto]
    #[arg(long, value_name = "N")]
    rotation: Option<RotationRule>,
    /// How codes are chosen: with feedback, or each by itself [default: gptq]
    #[arg(long, value_enum)]
    solver: Option<SolverChoice>,
    /// How scales are chosen: by the least error, or the largest weight [default: mse]
    #[arg(long, value_enum)]
    scales: Option<ScaleRuleChoice>,
    /// Whose files to write: compressed-tensors, fp_quant or gptq [default: compressed-tensors; gptq for int2 and int3]
    #[arg(long)]
    export: Option<Export>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScaleChoice {
    Always,
    Never,
    Auto,
}

#[derive(Clone, Copy, ValueEnum)]
enum AllocationChoice {
    /// Where errors cost most, as a survey of the model measures it first
    Sensitivity,
    /// The whole part for all; what is left for attention first, experts last, the ends of the model before its middle
    Position,
    /// The whole part for all
    Uniform,
}

#[derive(Clone, Copy, ValueEnum)]
enum RecipeChoice {
    Treillage,
    Original,
}

#[derive(Clone, Copy, ValueEnum)]
enum SolverChoice {
    Gptq,
    Rtn,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScaleRuleChoice {
    Mse,
    Minmax,
}

impl MethodArgs {
    /// What was asked for.
    pub(super) fn options(&self, seed: u64) -> Result<Options> {
        let (options, foreign, owner) = match self.method {
            Method::Trellis => (self.trellis.options()?, self.gptq.given(), "mr-gptq"),
            Method::MrGptq => (self.gptq.options(), self.trellis.given(), "trellis"),
        };
        if let Some(flag) = foreign {
            bail!("{flag} belongs to --method {owner}");
        }
        let mut options = Options { seed, ..options };
        if let Some(choice) = self.expert_hessian {
            options.recipe.experts = match choice {
                ExpertHessian::Shrunk => ExpertTokens::shrunk(),
                ExpertHessian::Routed => ExpertTokens::routed(),
                ExpertHessian::All => ExpertTokens::All,
            };
        }
        Ok(options)
    }
}

impl TrellisArgs {
    fn options(&self) -> Result<Options> {
        let default = TrellisOptions::default();
        let recipe = match self.recipe {
            Some(RecipeChoice::Original) => Recipe::original(),
            Some(RecipeChoice::Treillage) | None => Recipe::treillage(),
        };
        let trellis = TrellisOptions {
            bits_per_weight: self.bpw.unwrap_or(default.bits_per_weight),
            allocation: match self.allocation {
                Some(AllocationChoice::Sensitivity) => AllocationRule::Sensitivity,
                Some(AllocationChoice::Position) => AllocationRule::Position,
                Some(AllocationChoice::Uniform) => AllocationRule::Uniform,
                None => default.allocation,
            },
            uniform_experts: self.uniform_experts,
            head_bits: match self.head_bits {
                Some(bits) => HeadBits::try_from(bits)?,
                None => default.head_bits,
            },
            codebook: self.codebook.unwrap_or(default.codebook),
            out_scales: match self.out_scales {
                Some(ScaleChoice::Always) => OutScales::Always,
                Some(ScaleChoice::Never) => OutScales::Never,
                Some(ScaleChoice::Auto) => OutScales::Auto,
                None => default.out_scales,
            },
            effort: self.effort.unwrap_or(default.effort),
        };
        Ok(Options {
            recipe,
            ..Options::trellis(trellis)
        })
    }

    /// The first of these that was given.
    fn given(&self) -> Option<&'static str> {
        first([
            (self.bpw.is_some(), "--bpw"),
            (self.allocation.is_some(), "--allocation"),
            (self.uniform_experts, "--uniform-experts"),
            (self.head_bits.is_some(), "--head-bits"),
            (self.codebook.is_some(), "--codebook"),
            (self.out_scales.is_some(), "--out-scales"),
            (self.effort.is_some(), "--effort"),
            (self.recipe.is_some(), "--recipe"),
        ])
    }
}

impl GptqArgs {
    fn options(&self) -> Options {
        let format = self.format.unwrap_or(Format::Int(IntBits::Four));
        let default = GptqOptions::new(format);
        Options::mr_gptq(GptqOptions {
            group: self.group.unwrap_or(default.group),
            rotation: self.rotation.unwrap_or(default.rotation),
            solver: match self.solver {
                Some(SolverChoice::Gptq) => Solver::Gptq,
                Some(SolverChoice::Rtn) => Solver::Rtn,
                None => default.solver,
            },
            scales: match self.scales {
                Some(ScaleRuleChoice::Mse) => ScaleRule::Mse,
                Some(ScaleRuleChoice::Minmax) => ScaleRule::Minmax,
                None => default.scales,
            },
            export: self.export.unwrap_or(default.export),
            ..default
        })
    }

    /// The first of these that was given.
    fn given(&self) -> Option<&'static str> {
        first([
            (self.format.is_some(), "--format"),
            (self.group.is_some(), "--group"),
            (self.rotation.is_some(), "--rotation"),
            (self.solver.is_some(), "--solver"),
            (self.scales.is_some(), "--scales"),
            (self.export.is_some(), "--export"),
        ])
    }
}

fn first<const N: usize>(flags: [(bool, &'static str); N]) -> Option<&'static str> {
    let given = flags.into_iter().find(|(given, _)| *given);
    given.map(|(_, flag)| flag)
}
