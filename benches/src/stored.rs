//! Random models in files, as they are published.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use half::bf16;
use rand::Rng;
use serde_json::{Map, Value, json};
use treillage_backend::{DenseData, DenseWeights, LinearShape, LinearWeights};
use treillage_checkpoint::ModelConfig;
use treillage_cpu::CpuBackend;
use treillage_model::{Block, Embedding, Error, Head, Weights};

use crate::random;

/// Writes into the folder `dir` a checkpoint of random bf16 weights for `config`, of a size that keeps activations about what they
/// are. Its tensors are those that a model asks for when it is loaded.
///
/// # Errors
/// If `config` describes no model, or the disk is full.
pub fn write(dir: &Path, config: &Value) -> Result<()> {
    let parsed = ModelConfig::from_json(config)?;
    let asked = Asked::default();
    let backend = CpuBackend::default();
    drop(Embedding::load(&backend, &asked, &parsed)?);
    drop(Head::load(&backend, &asked, &parsed)?);
    for index in 0..parsed.num_layers {
        drop(Block::load(&backend, &asked, &parsed, index)?);
    }
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).with_context(|| path.display().to_string())
    };
    write("config.json", config.to_string().as_bytes())?;
    let tensors = asked.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (mut header, mut end) = (Map::new(), 0);
    for tensor in &tensors {
        let begin = end;
        end += 2 * tensor.values.len();
        header.insert(
            tensor.name.clone(),
            json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]}),
        );
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let path = dir.join("model.safetensors");
    let mut file = BufWriter::new(File::create(&path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for tensor in &tensors {
        file.write_all(bytemuck::cast_slice(&tensor.values))?;
    }
    file.flush().with_context(|| path.display().to_string())
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Arc<Vec<bf16>>,
}

/// Gives whatever it is asked for, and remembers it.
#[derive(Default)]
struct Asked(Mutex<Vec<Tensor>>);

impl Asked {
    /// Values between `centre - width` and `centre + width` for the tensor `name`.
    fn give(&self, name: &str, shape: &[usize], centre: f32, width: f32) -> Arc<Vec<bf16>> {
        let mut tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rng = random::rng(tensors.len() as u64);
        let draw = |_| bf16::from_f32(centre + width * (2.0 * rng.random::<f32>() - 1.0));
        let values: Arc<Vec<bf16>> = Arc::new((0..shape.iter().product()).map(draw).collect());
        tensors.push(Tensor {
            name: name.to_owned(),
            shape: shape.to_owned(),
            values: values.clone(),
        });
        values
    }
}

impl Weights for Asked {
    fn linear(&self, prefix: &str, shape: LinearShape) -> Result<LinearWeights, Error> {
        let weight = format!("{prefix}.weight");
        let weight = self.dense(&weight, shape.out_features, shape.in_features)?;
        Ok(LinearWeights::Dense { weight, bias: None })
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<DenseWeights, Error> {
        // Outputs vary as inputs do.
        let values = self.give(name, &[rows, cols], 0.0, (3.0 / cols as f32).sqrt());
        Ok(DenseWeights::new(rows, cols, DenseData::Bf16(values))?)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        self.values(name, &[len])
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (centre, width) = match name.contains("norm") {
            true => (1.0, 0.1),
            false => (0.0, 0.5),
        };
        let values = self.give(name, shape, centre, width);
        Ok(values.iter().map(|value| value.to_f32()).collect())
    }

    fn has_linear(&self, _: &str) -> bool {
        true
    }
}
