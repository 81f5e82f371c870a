use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    DenseTensor, Error, ModelConfig, Quantization, Result, TensorView, config, shards::Shards,
};

/// A checkpoint folder, opened for reading: configuration and memory-mapped tensors.
pub struct Checkpoint {
    dir: PathBuf,
    raw_config: Value,
    config: ModelConfig,
    quantization: Option<Quantization>,
    shards: Shards,
}

impl Checkpoint {
    /// Opens the folder `dir`: `config.json`, `generation_config.json` if there is one, and the safetensors files that
    /// `model.safetensors.index.json` names or, without an index, `model.safetensors` or else all there are. Headers
    /// are checked, weights are not read.
    ///
    /// # Errors
    /// Whatever is missing, malformed, inconsistent or of an architecture that [`ModelConfig`] does not know.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let raw_config = config::read(&dir.join(config::CONFIG))?;
        let (config, quantization) = config::parse(dir, &raw_config)?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
            quantization,
            raw_config,
            shards: Shards::open(dir)?,
        })
    }

    /// The same model with no other tensors than those of the safetensors file `path`, which are quantized as told.
    pub(crate) fn with_tensors_of(
        &self,
        path: &Path,
        quantization: Option<Quantization>,
    ) -> Result<Self> {
        Ok(Self {
            dir: path.parent().unwrap_or(path).to_owned(),
            raw_config: self.raw_config.clone(),
            config: self.config.clone(),
            quantization,
            shards: Shards::open_file(path)?,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// `config.json` as it stands in the file.
    pub fn raw_config(&self) -> &Value {
        &self.raw_config
    }

    /// How the weights are quantized, if they are.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// All tensors in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.shards.iter()
    }

    /// Names of all tensors, ascending.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.shards.iter().map(|view| view.name())
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensor_if_any(name).is_some()
    }

    /// The tensor `name` as it is stored.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.tensor_if_any(name).ok_or_else(|| self.missing(name))
    }

    /// The floating-point tensor `name`, whatever its shape; FP8 is dequantised.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], or [`Error::Tensor`] if it is of another type.
    pub fn dense(&self, name: &str) -> Result<DenseTensor> {
        self.dense_or_fp8(&self.tensor(name)?)
    }

    /// The floating-point matrix `name` `[rows, cols]`, for example an embedding.
    ///
    /// # Errors
    /// As [`Checkpoint::dense`], and [`Error::Tensor`] if it has another shape.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<DenseTensor> {
        let view = self.tensor(name)?;
        view.expect_shape(&[rows, cols])?;
        self.dense_or_fp8(&view)
    }

    /// The `len` finite values of the floating-point vector `name`: a norm's weight, a bias.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], or [`Error::Tensor`] if it is of another type or length or not finite.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.values(name, &[len])
    }

    /// The finite values of the floating-point tensor `name`, row-major.
    ///
    /// # Errors
    /// As [`Checkpoint::vector`].
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let view = self.tensor(name)?;
        view.expect_shape(shape)?;
        let tensor = DenseTensor::from_view(&view)?;
        tensor.check_finite()?;
        Ok(tensor.to_f32())
    }

    /// Tells the system that the tensors whose names begin with `prefix` will not be looked at soon, so that their
    /// pages stop counting as resident. Reading them later is still right, only slower.
    pub fn evict(&self, prefix: &str) {
        for view in self.shards.with_prefix(prefix) {
            view.evict();
        }
    }

    pub(crate) fn tensor_if_any(&self, name: &str) -> Option<TensorView<'_>> {
        self.shards.tensor(name)
    }

    pub(crate) fn missing(&self, name: &str) -> Error {
        Error::MissingTensor {
            dir: self.dir.clone(),
            name: name.to_owned(),
        }
    }
}
