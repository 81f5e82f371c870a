//! Checkpoints of linears with a scale per group, in the layouts that other engines load.

mod compressed;
mod fp_quant;
mod gptq;
mod tensors;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde_json::{Map, Value, json};
use treillage_gptq::{Format, GroupedLinear, Rotation, Scales};

use super::{
    DEFAULT_SHARD_BYTES, Module,
    assemble::{StoredModule, write_weights},
    atomic,
    job::Job,
    part::OutTensor,
};
use crate::{Checkpoint, FpQuantDtype, GptqVersion, Quantization, Result, WriteError, config};

/// A layout of checkpoint files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Export {
    /// compressed-tensors: INT4, INT8, NVFP4 and MXFP4, unrotated.
    #[default]
    CompressedTensors,
    /// FP-Quant: NVFP4 and MXFP4, with a rotation of every linear's inputs.
    FpQuant,
    /// Classic GPTQ: integers, unrotated.
    Gptq,
}

impl Export {
    /// All of them.
    pub const ALL: [Export; 3] = [Export::CompressedTensors, Export::FpQuant, Export::Gptq];

    /// Its `quant_method`, which is also its name on the command line but for a hyphen or two.
    pub fn name(self) -> &'static str {
        match self {
            Export::CompressedTensors => "compressed-tensors",
            Export::FpQuant => "fp_quant",
            Export::Gptq => "gptq",
        }
    }

    /// Whether linears of `format` can be written so.
    pub fn holds(self, format: Format) -> bool {
        match self {
            Export::CompressedTensors => compressed::layout(format).is_some(),
            Export::FpQuant => fp_quant::dtype(format).is_some(),
            Export::Gptq => matches!(format, Format::Int(_)),
        }
    }

    /// Whether linears with rotated inputs can be written so.
    pub fn holds_rotations(self) -> bool {
        self == Export::FpQuant
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Export {
    type Err = WriteError;

    fn from_str(name: &str) -> Result<Self, WriteError> {
        Export::ALL
            .into_iter()
            .find(|export| export.name() == name)
            .ok_or_else(|| WriteError::UnknownExport(name.to_owned()))
    }
}

/// What a group-quantized checkpoint says about itself, and what must agree for a job to be resumed.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupedSettings {
    /// The layout of the files.
    pub export: Export,
    /// The numbers that weights are.
    pub format: Format,
    /// Weights along the input axis that share a scale; `None` if each output has one scale.
    pub group: Option<usize>,
    /// Integers only: whether zero is the middle code everywhere.
    pub symmetric: bool,
    /// Whether codes were chosen in activation order. Described only: groups are those of the original order.
    pub act_order: bool,
    /// What was added to Hessians, as a fraction of their mean diagonal. Described only.
    pub damping: f32,
    /// How names of linears end that are not quantized, at a dot: `lm_head`, `mlp.gate`. Matrices that
    /// are written dense need not be named; a head that is the embedding must.
    pub ignore: Vec<String>,
    /// FP-Quant only: the size of its rotation matrices, which must divide every linear's inputs: 16, 32, 64 or 128,
    /// not less than the format's group, which is what `None` stands for. A linear may be rotated in blocks that divide
    /// it, or not at all.
    pub rotation: Option<usize>,
    /// Fields of `config.json` to be other than the source's.
    pub config: Map<String, Value>,
    /// Bytes of tensors that one shard holds at most.
    pub max_shard_bytes: u64,
    /// Whatever else the caller's result depends on: a job of another fingerprint is not resumed.
    pub fingerprint: Value,
}

impl GroupedSettings {
    /// Symmetric, in groups of the usual size; head and routers stay dense.
    pub fn new(export: Export, format: Format) -> Self {
        Self {
            export,
            format,
            group: Some(format.default_group()),
            symmetric: true,
            act_order: true,
            damping: 0.01,
            ignore: ["lm_head", "mlp.gate"].map(String::from).to_vec(),
            rotation: None,
            config: Map::new(),
            max_shard_bytes: DEFAULT_SHARD_BYTES,
            fingerprint: Value::Null,
        }
    }

    fn described(&self) -> Value {
        json!({
            "format": self.export.name(),
            "numbers": self.format.name(),
            "group": self.group,
            "symmetric": self.symmetric,
            "act_order": self.act_order,
            "damping": self.damping,
            "ignore": self.ignore,
            "rotation": self.rotation,
            "config": self.config,
            "max_shard_bytes": self.max_shard_bytes,
            "fingerprint": self.fingerprint,
        })
    }

    /// As a reader of the finished checkpoint finds it.
    fn quantization(&self) -> Quantization {
        match (self.export, self.format) {
            (Export::Gptq, Format::Int(bits)) => Quantization::Gptq {
                bits,
                version: GptqVersion::V1,
            },
            (Export::FpQuant, Format::NvFp4) => Quantization::FpQuant {
                forward: FpQuantDtype::NvFp4,
            },
            (Export::FpQuant, _) => Quantization::FpQuant {
                forward: FpQuantDtype::MxFp4,
            },
            (_, Format::Int(bits)) => Quantization::CompressedTensors { bits: vec![bits] },
            _ => Quantization::CompressedTensors { bits: Vec::new() },
        }
    }

    /// Why `linear` cannot be one of this checkpoint's, if it cannot.
    fn misfit(&self, linear: &GroupedLinear) -> Option<&'static str> {
        let parts = linear.parts();
        let group = self.group.unwrap_or(parts.in_features);
        let scales_fit = match self.format {
            Format::Int(_) | Format::Fp4 => matches!(
                parts.scales,
                Scales::F16(_) | Scales::Bf16(_) | Scales::F32(_)
            ),
            Format::NvFp4 => matches!(parts.scales, Scales::E4m3 { .. }),
            Format::MxFp4 => matches!(parts.scales, Scales::E8m0 { .. }),
        };
        if parts.element != self.format.element() || !scales_fit {
            return Some("its numbers are not those of the checkpoint's format");
        }
        if parts.group != group {
            return Some("its groups are not of the checkpoint's size");
        }
        if self.symmetric && parts.zeros.is_some() {
            return Some("it has zeros, and the checkpoint is symmetric");
        }
        if parts.order.is_some() {
            return Some("its groups are not runs of inputs");
        }
        let finite = |bias: &Vec<f32>| bias.iter().all(|b| b.is_finite());
        if !parts.bias.as_ref().is_none_or(finite) {
            return Some("its bias is not a finite number everywhere");
        }
        None
    }
}

/// Writes a checkpoint of group-quantized linears, group by group and as resumably as [`crate::Exl3Writer`]:
/// safetensors in the layout of [`Export`], tensors that are not quantized in their own type, `config.json` with
/// a `quantization_config` (for GPTQ also as `quantize_config.json`), tokenizer and companions.
///
/// ```no_run
/// # use treillage_checkpoint::{Checkpoint, Export, GroupedSettings, GroupedWriter, Module, Result};
/// # use treillage_gptq::{Format, GroupedLinear, IntBits};
/// # fn encode(_: &Checkpoint, _: &str) -> GroupedLinear { unreachable!("never run") }
/// # fn main() -> Result<()> {
/// let source = Checkpoint::open("Qwen3-30B-A3B")?;
/// let settings = GroupedSettings::new(Export::CompressedTensors, Format::Int(IntBits::Four));
/// let groups = ["model.layers.0.self_attn.q_proj"].map(String::from).to_vec();
/// let writer = GroupedWriter::create_or_resume("Qwen3-30B-A3B-int4", settings, groups)?;
/// let pending: Vec<_> = writer.pending().map(str::to_owned).collect();
/// for group in &pending {
///     let linear = encode(&source, group);
///     let module = Module::Grouped { name: group, linear: &linear, activation_scale: None };
///     writer.write_group(group, &[module])?;
/// }
/// writer.finish(&source)
/// # }
/// ```
pub struct GroupedWriter {
    settings: GroupedSettings,
    job: Job,
}

impl GroupedWriter {
    /// As [`crate::Exl3Writer::create_or_resume`].
    ///
    /// # Errors
    /// [`WriteError::Export`] if the layout has no such numbers, [`WriteError::Rotation`], [`WriteError::NotEmpty`],
    /// [`WriteError::OtherJob`], [`WriteError::Busy`], [`crate::Error::Io`].
    pub fn create_or_resume(
        dir: impl AsRef<Path>,
        settings: GroupedSettings,
        groups: Vec<String>,
    ) -> Result<Self> {
        let dir = dir.as_ref();
        let GroupedSettings { export, format, .. } = settings;
        if !export.holds(format) {
            return Err(WriteError::Export { export, format }.at(dir));
        }
        let size = settings.rotation_size();
        let least = format.default_group();
        if export == Export::FpQuant && !(Rotation::BLOCKS.contains(&size) && size >= least) {
            return Err(WriteError::Rotation { size, least }.at(dir));
        }
        let job = Job::create_or_resume(dir, settings.described(), groups)?;
        Ok(Self { settings, job })
    }

    /// Names of the groups that are not written yet, in order. Written ones stay written, also across processes.
    pub fn pending(&self) -> impl Iterator<Item = &str> {
        self.job.pending()
    }

    /// A folder for what the caller needs to go on after being killed; [`GroupedWriter::finish`] removes it.
    pub fn state_dir(&self) -> PathBuf {
        self.job.state_dir()
    }

    /// Replaces [`GroupedSettings::rotation`], for callers who choose it after the job has begun. It must be the same
    /// whenever the job goes on: the job does not remember it.
    pub fn set_rotation(&mut self, rotation: Option<usize>) {
        self.settings.rotation = rotation;
    }

    /// The model of `source` with the tensors of `group` as they were written, and no others.
    ///
    /// # Errors
    /// [`WriteError::UnknownGroup`], [`crate::Error::Io`] if it is not written yet.
    pub fn written(&self, group: &str, source: &Checkpoint) -> Result<Checkpoint> {
        source.with_tensors_of(
            &self.job.written(group)?,
            Some(self.settings.quantization()),
        )
    }

    /// Writes the modules of `group`, all or nothing.
    ///
    /// # Errors
    /// [`WriteError::Linear`] for a linear that the layout cannot hold or that is not what the settings say,
    /// [`WriteError::Trellis`], [`crate::TensorError::NotFinite`], [`WriteError::UnknownGroup`],
    /// [`crate::Error::Io`].
    pub fn write_group(&self, group: &str, modules: &[Module<'_>]) -> Result<()> {
        let mut tensors = Vec::new();
        for module in modules {
            self.push_tensors(module, &mut tensors)?;
        }
        self.job.write_group(group, &tensors)
    }

    fn push_tensors<'a>(&self, module: &Module<'a>, out: &mut Vec<OutTensor<'a>>) -> Result<()> {
        match *module {
            Module::Tensor(tensor) => out.push(OutTensor::verbatim(tensor)?),
            Module::Linear { name, weight, bias } => {
                for (leaf, tensor) in [("bias", bias), ("weight", Some(weight))] {
                    let Some(tensor) = tensor else { continue };
                    let mut tensor = OutTensor::verbatim(tensor)?;
                    tensor.name = format!("{name}.{leaf}");
                    out.push(tensor);
                }
            }
            Module::Grouped {
                name,
                linear,
                activation_scale,
            } => {
                let misfit = |reason| {
                    let (name, export) = (name.to_owned(), self.settings.export);
                    WriteError::Linear {
                        name,
                        export,
                        reason,
                    }
                    .at(self.job.dir())
                };
                if let Some(reason) = self.settings.misfit(linear) {
                    return Err(misfit(reason));
                }
                let pushed = match self.settings.export {
                    Export::CompressedTensors => {
                        compressed::push(name, linear, self.settings.symmetric, out)
                    }
                    Export::FpQuant => {
                        let size = self.settings.rotation_size();
                        fp_quant::push(name, linear, activation_scale, size, out)
                    }
                    Export::Gptq => gptq::push(name, linear, out),
                };
                pushed.map_err(misfit)?;
            }
            Module::Trellis { name, .. } => {
                return Err(WriteError::Trellis(name.to_owned()).at(self.job.dir()));
            }
        }
        Ok(())
    }

    /// Puts the groups together, with the configuration and companions of `source`, and removes what only the job
    /// needed. Goes on where a killed process left off.
    ///
    /// A head that was written makes the checkpoint untied, whatever `source` says.
    ///
    /// # Errors
    /// [`WriteError::MissingGroup`], [`WriteError::Duplicate`], [`crate::Error::Io`].
    pub fn finish(self, source: &Checkpoint) -> Result<()> {
        let Self { settings, job } = self;
        job.finish(|job, parts| {
            let modules = write_weights(job, parts, source, settings.max_shard_bytes)?;
            let dense = Dense::new(&settings, &modules);
            let description = match settings.export {
                Export::CompressedTensors => compressed::description(&settings, &dense),
                Export::FpQuant => fp_quant::description(&settings, &dense),
                Export::Gptq => {
                    let description = gptq::description(&settings, &dense);
                    job.write_file("quantize_config.json", atomic::json(&description))?;
                    description
                }
            };
            // Last: a folder with a config.json is a whole checkpoint.
            let mut config = source.raw_config().clone();
            if let Value::Object(fields) = &mut config {
                super::untie_if_written(fields, &modules);
                for (field, value) in &settings.config {
                    fields.insert(field.clone(), value.clone());
                }
                fields.insert("quantization_config".to_owned(), description);
            }
            job.write_file(config::CONFIG, atomic::json(&config))
        })
    }
}

/// The linears of a checkpoint that are not quantized.
struct Dense {
    /// How their names end, at a dot.
    suffixes: Vec<String>,
    /// Names of others.
    exact: Vec<String>,
    head_is_quantized: bool,
}

impl Dense {
    fn new(settings: &GroupedSettings, modules: &[StoredModule<'_>]) -> Self {
        let is_quantized = |module: &StoredModule<'_>| {
            ["weight_packed", "qweight"]
                .iter()
                .any(|leaf| module.tensor(leaf).is_some())
        };
        let quantized: Vec<_> = modules.iter().filter(|m| is_quantized(m)).collect();
        let suffixes: Vec<String> = settings
            .ignore
            .iter()
            .filter(|suffix| {
                !quantized
                    .iter()
                    .any(|module| ends_with(module.name, suffix))
            })
            .cloned()
            .collect();
        let covered = |name: &str| suffixes.iter().any(|suffix| ends_with(name, suffix));
        let is_matrix = |module: &&StoredModule<'_>| {
            module
                .tensor("weight")
                .is_some_and(|weight| weight.shape().len() == 2)
        };
        let exact = modules
            .iter()
            .filter(is_matrix)
            .map(|module| module.name)
            // Not a linear: nobody thinks of quantizing it.
            .filter(|name| !ends_with(name, "embed_tokens") && !covered(name))
            .map(str::to_owned)
            .collect();
        Self {
            exact,
            head_is_quantized: quantized.iter().any(|module| module.name == "lm_head"),
            suffixes,
        }
    }
}

/// Whether the last components of `name` are those of `suffix`.
fn ends_with(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
