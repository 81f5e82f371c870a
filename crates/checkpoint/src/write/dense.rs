use std::path::Path;

use serde_json::{Value, json};

use super::{
    DEFAULT_SHARD_BYTES,
    assemble::{StoredModule, write_weights},
    atomic,
    job::Job,
    part::OutTensor,
};
use crate::{Checkpoint, DenseTensor, Dtype, HalfDtype, Result, config};

/// How an unquantized checkpoint is written, and what must agree for a job to be resumed.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseSettings {
    /// The type of every tensor.
    pub dtype: HalfDtype,
    /// Bytes of tensors that one shard holds at most.
    pub max_shard_bytes: u64,
    /// Whatever else the result depends on: a job of another fingerprint is not resumed.
    pub fingerprint: Value,
}

impl Default for DenseSettings {
    fn default() -> Self {
        Self {
            dtype: HalfDtype::default(),
            max_shard_bytes: DEFAULT_SHARD_BYTES,
            fingerprint: Value::Null,
        }
    }
}

/// Writes an unquantized checkpoint in Hugging Face format, group by group and as resumably as
/// [`crate::Exl3Writer`]: safetensors in one 16-bit type, `config.json` without a `quantization_config`, tokenizer
/// and companions.
pub struct DenseWriter {
    settings: DenseSettings,
    job: Job,
}

impl DenseWriter {
    /// As [`crate::Exl3Writer::create_or_resume`].
    ///
    /// # Errors
    /// [`crate::WriteError::NotEmpty`], [`crate::WriteError::OtherJob`], [`crate::WriteError::Busy`],
    /// [`crate::Error::Io`].
    pub fn create_or_resume(
        dir: impl AsRef<Path>,
        settings: DenseSettings,
        groups: Vec<String>,
    ) -> Result<Self> {
        let described = json!({
            "format": "dense",
            "dtype": Dtype::from(settings.dtype).name(),
            "max_shard_bytes": settings.max_shard_bytes,
            "fingerprint": settings.fingerprint,
        });
        let job = Job::create_or_resume(dir.as_ref(), described, groups)?;
        Ok(Self { settings, job })
    }

    /// Names of the groups that are not written yet, in order.
    pub fn pending(&self) -> impl Iterator<Item = &str> {
        self.job.pending()
    }

    /// Writes the tensors of `group` under their own names, all or nothing.
    ///
    /// # Errors
    /// [`crate::TensorError::NotFinite`] or [`crate::WriteError::Overflow`] for values that cannot be stored,
    /// [`crate::WriteError::UnknownGroup`], [`crate::Error::Io`].
    pub fn write_group(&self, group: &str, tensors: &[DenseTensor]) -> Result<()> {
        let converted = tensors.iter().map(|tensor| {
            let name = tensor.name().to_owned();
            OutTensor::converted(name, tensor, self.settings.dtype, self.job.dir())
        });
        let tensors = converted.collect::<Result<Vec<_>>>()?;
        self.job.write_group(group, &tensors)
    }

    /// Puts the groups together, with the configuration and companions of `source`, and removes what only the job
    /// needed. Goes on where a killed process left off.
    ///
    /// A head that was written makes the checkpoint untied, whatever `source` says.
    ///
    /// # Errors
    /// [`crate::WriteError::MissingGroup`], [`crate::WriteError::Duplicate`], [`crate::Error::Io`].
    pub fn finish(self, source: &Checkpoint) -> Result<()> {
        let Self { settings, job } = self;
        job.finish(|job, parts| {
            let modules = write_weights(job, parts, source, settings.max_shard_bytes)?;
            let config = dense_config(source.raw_config(), settings.dtype, &modules);
            job.write_file(config::CONFIG, atomic::json(&config))
        })
    }
}

/// `config` for weights that are not quantized any more.
fn dense_config(config: &Value, dtype: HalfDtype, modules: &[StoredModule<'_>]) -> Value {
    let mut config = config.clone();
    if let Value::Object(fields) = &mut config {
        // Also whatever quantization came before: these weights have none.
        fields.shift_remove("quantization_config");
        let spelling = match fields.contains_key("dtype") {
            true => "dtype",
            false => "torch_dtype",
        };
        let name = Dtype::from(dtype).torch_name();
        fields.insert(spelling.to_owned(), json!(name));
        super::untie_if_written(fields, modules);
    }
    config
}
