use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use treillage_trellis::{Bits, Codebook, OutScales, PackedLinear};

use super::{
    DEFAULT_SHARD_BYTES, Module,
    assemble::write_weights,
    atomic,
    description::{Description, out_scales_name},
    job::Job,
    part::{Bytes, OutTensor},
};
use crate::{Checkpoint, Dtype, HalfDtype, Result, WriteError, config};

/// What a quantized checkpoint says about how it was made, and what must agree for a job to be resumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Exl3Settings {
    /// The codebook of all its linears.
    pub codebook: Codebook,
    /// Rows of calibration text; 0 without calibration.
    pub calibration_rows: usize,
    /// Tokens of a row.
    pub calibration_cols: usize,
    /// Whether output channels have scales of their own.
    pub out_scales: OutScales,
    /// Whether to refuse experts of a layer whose rates differ in a projection: ExLlamaV3 addresses them by one table and
    /// does not load such files. Treillage does.
    pub uniform_experts: bool,
    /// Bytes of tensors that one shard holds at most.
    pub max_shard_bytes: u64,
    /// Whatever else the caller's result depends on: a job of another fingerprint is not resumed.
    pub fingerprint: Value,
}

impl Default for Exl3Settings {
    fn default() -> Self {
        Self {
            codebook: Codebook::default(),
            calibration_rows: 0,
            calibration_cols: 0,
            out_scales: OutScales::default(),
            uniform_experts: true,
            max_shard_bytes: DEFAULT_SHARD_BYTES,
            fingerprint: Value::Null,
        }
    }
}

/// Writes an EXL3 checkpoint, group by group, in a way that survives being killed at any moment.
///
/// A group is what is quantized at once, usually a transformer block; its file is complete or absent. All groups
/// together become `model.safetensors` or its shards, beside them:
/// - `config.json`: the source's, with a `quantization_config`;
/// - `quantization_config.json`: the same with `tensor_storage`, a description of every tensor;
/// - `quantize_config.json`: the same once more in the spelling of GPTQModel, quantized modules only;
/// - tokenizer, templates, generation defaults and licence, copied.
///
/// The folder ends with the same bytes whatever the interruptions, provided that the caller writes the same groups.
///
/// ```no_run
/// # use treillage_checkpoint::{Checkpoint, Exl3Settings, Exl3Writer, Module, Result};
/// # fn encode(_: &Checkpoint, _: &str) -> treillage_trellis::PackedLinear { unreachable!("never run") }
/// # fn main() -> Result<()> {
/// let source = Checkpoint::open("Qwen3-30B-A3B")?;
/// let groups = ["model.layers.0", "lm_head"].map(String::from).to_vec();
/// let writer = Exl3Writer::create_or_resume("Qwen3-30B-A3B-3bpw", Exl3Settings::default(), groups)?;
/// let pending: Vec<_> = writer.pending().map(str::to_owned).collect();
/// for group in &pending {
///     let linear = encode(&source, group);
///     writer.write_group(group, &[Module::Trellis { name: group, linear: &linear }])?;
/// }
/// writer.finish(&source)
/// # }
/// ```
pub struct Exl3Writer {
    settings: Exl3Settings,
    job: Job,
}

impl Exl3Writer {
    /// Begins a job in `dir`, which must be empty or not exist, or goes on with one of equal `settings` and `groups`.
    /// The groups' names are free; their order is that of the tensors in the files.
    ///
    /// # Errors
    /// [`WriteError::NotEmpty`], [`WriteError::OtherJob`], [`WriteError::Busy`], [`crate::Error::Io`].
    pub fn create_or_resume(
        dir: impl AsRef<Path>,
        settings: Exl3Settings,
        groups: Vec<String>,
    ) -> Result<Self> {
        let described = json!({
            "format": "exl3",
            "codebook": settings.codebook.name(),
            "calibration": [settings.calibration_rows, settings.calibration_cols],
            "out_scales": out_scales_name(settings.out_scales),
            "uniform_experts": settings.uniform_experts,
            "max_shard_bytes": settings.max_shard_bytes,
            "fingerprint": settings.fingerprint,
        });
        let job = Job::create_or_resume(dir.as_ref(), described, groups)?;
        Ok(Self { settings, job })
    }

    /// Names of the groups that are not written yet, in order. Written ones stay written, also across processes.
    pub fn pending(&self) -> impl Iterator<Item = &str> {
        self.job.pending()
    }

    /// A folder for what the caller needs to go on after being killed, for example the activations after the last
    /// written group. [`Exl3Writer::finish`] removes it.
    pub fn state_dir(&self) -> PathBuf {
        self.job.state_dir()
    }

    /// The model of `source` with the tensors of `group` as they were written, and no others: what a job that goes on
    /// needs of the part that is done.
    ///
    /// # Errors
    /// [`WriteError::UnknownGroup`], [`crate::Error::Io`] if it is not written yet.
    pub fn written(&self, group: &str, source: &Checkpoint) -> Result<Checkpoint> {
        source.with_tensors_of(&self.job.written(group)?, None)
    }

    /// Writes the modules of `group`, all or nothing.
    ///
    /// # Errors
    /// [`WriteError::Codebook`] if loaders would refuse the result, [`WriteError::ExpertBits`] if ExLlamaV3 would and
    /// [that matters](Exl3Settings::uniform_experts),
    /// [`WriteError::Grouped`], [`crate::TensorError::NotFinite`] or [`WriteError::Overflow`] for values that cannot be
    /// stored, [`WriteError::UnknownGroup`], [`crate::Error::Io`].
    pub fn write_group(&self, group: &str, modules: &[Module<'_>]) -> Result<()> {
        let linears = || {
            modules.iter().filter_map(|module| match module {
                Module::Trellis { name, linear } => Some((*name, *linear)),
                _ => None,
            })
        };
        check_codebook(linears(), self.settings.codebook)
            .and_then(|()| match self.settings.uniform_experts {
                true => check_expert_bits(linears()),
                false => Ok(()),
            })
            .map_err(|reason| reason.at(self.job.dir()))?;
        let mut tensors = Vec::new();
        for module in modules {
            self.push_tensors(module, &mut tensors)?;
        }
        self.job.write_group(group, &tensors)
    }

    fn push_tensors<'a>(&self, module: &Module<'a>, out: &mut Vec<OutTensor<'a>>) -> Result<()> {
        match *module {
            Module::Trellis { name, linear } => push_trellis(name, linear, out),
            Module::Grouped { name, .. } => {
                return Err(WriteError::Grouped(name.to_owned()).at(self.job.dir()));
            }
            Module::Tensor(tensor) => out.push(OutTensor::verbatim(tensor)?),
            Module::Linear { name, weight, bias } => {
                for (leaf, tensor) in [("bias", bias), ("weight", Some(weight))] {
                    let Some(tensor) = tensor else { continue };
                    let name = format!("{name}.{leaf}");
                    let dir = self.job.dir();
                    out.push(OutTensor::converted(name, tensor, HalfDtype::F16, dir)?);
                }
            }
        }
        Ok(())
    }

    /// Puts the groups together, with the configuration and companions of `source`, and removes what only the job
    /// needed. Goes on where a killed process left off.
    ///
    /// # Errors
    /// [`WriteError::MissingGroup`], [`WriteError::Duplicate`], [`crate::Error::Io`].
    pub fn finish(self, source: &Checkpoint) -> Result<()> {
        let Self { settings, job } = self;
        job.finish(|job, parts| {
            let modules = write_weights(job, parts, source, settings.max_shard_bytes)?;
            let description = Description::new(&settings, &modules, source);
            let (exllama, gptq_model) = (description.exllama(), description.gptq_model());
            job.write_file("quantization_config.json", atomic::json(&exllama))?;
            job.write_file("quantize_config.json", atomic::json(&gptq_model))?;
            // Last: a folder with a config.json is a whole checkpoint.
            let mut config = source.raw_config().clone();
            config["quantization_config"] = json!(description.summary());
            job.write_file(config::CONFIG, atomic::json(&config))
        })
    }
}

/// The tensors of one trellis-coded linear.
fn push_trellis<'a>(name: &str, linear: &'a PackedLinear, out: &mut Vec<OutTensor<'a>>) {
    let mut push = |leaf: &str, dtype, shape: &[usize], bytes| {
        out.push(OutTensor {
            name: format!("{name}.{leaf}"),
            dtype,
            shape: shape.to_vec(),
            bytes,
        });
    };
    if let Some(bias) = linear.bias() {
        let bytes = Bytes::Borrowed(bytemuck::cast_slice(bias));
        push("bias", Dtype::F16, &[bias.len()], bytes);
    }
    if let Some(flag) = linear.codebook().flag() {
        let bytes = Bytes::Scalar(flag.to_le_bytes());
        push(linear.codebook().name(), Dtype::I32, &[], bytes);
    }
    for (leaf, scale) in [("suh", linear.suh()), ("svh", linear.svh())] {
        let bytes = Bytes::Borrowed(bytemuck::cast_slice(scale));
        push(leaf, Dtype::F16, &[scale.len()], bytes);
    }
    let bytes = Bytes::Borrowed(bytemuck::cast_slice(linear.words()));
    push("trellis", Dtype::I16, &linear.shape(), bytes);
}

fn check_codebook<'a>(
    linears: impl Iterator<Item = (&'a str, &'a PackedLinear)>,
    expected: Codebook,
) -> Result<(), WriteError> {
    for (name, linear) in linears {
        if linear.codebook() != expected {
            return Err(WriteError::Codebook {
                name: name.to_owned(),
                found: linear.codebook(),
                expected,
            });
        }
    }
    Ok(())
}

/// Checks that each projection has one rate among the experts of a layer: ExLlamaV3 addresses them by one table.
fn check_expert_bits<'a>(
    linears: impl Iterator<Item = (&'a str, &'a PackedLinear)>,
) -> Result<(), WriteError> {
    let mut bits: HashMap<(&str, &str), Bits> = HashMap::new();
    for (name, linear) in linears {
        let Some((layer, expert)) = name.split_once(".experts.") else {
            continue;
        };
        let projection = expert.split_once('.').map_or("", |(_, rest)| rest);
        let expected = *bits.entry((layer, projection)).or_insert(linear.bits());
        if linear.bits() != expected {
            return Err(WriteError::ExpertBits {
                name: name.to_owned(),
                found: linear.bits(),
                expected,
            });
        }
    }
    Ok(())
}
