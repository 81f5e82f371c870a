use std::{collections::HashMap, sync::Arc};

use treillage_backend::{DenseWeights, LinearShape, LinearWeights};
use treillage_checkpoint::Checkpoint;
use treillage_model::Weights;
use treillage_trellis::PackedLinear;

/// A checkpoint in which some linears are already quantized.
pub(crate) struct Overlay<'a> {
    source: &'a Checkpoint,
    quantized: HashMap<String, Arc<PackedLinear>>,
}

impl<'a> Overlay<'a> {
    /// `source` as it is.
    pub(crate) fn new(source: &'a Checkpoint) -> Self {
        Self {
            source,
            quantized: HashMap::new(),
        }
    }

    /// Puts `linear` in the place of the original under `prefix`.
    pub(crate) fn insert(&mut self, prefix: String, linear: Arc<PackedLinear>) {
        self.quantized.insert(prefix, linear);
    }
}

impl Weights for Overlay<'_> {
    fn linear(
        &self,
        prefix: &str,
        shape: LinearShape,
    ) -> Result<LinearWeights, treillage_model::Error> {
        match self.quantized.get(prefix) {
            Some(linear) => Ok(LinearWeights::Trellis(Arc::clone(linear))),
            None => Weights::linear(self.source, prefix, shape),
        }
    }

    fn dense(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<DenseWeights, treillage_model::Error> {
        Weights::dense(self.source, name, rows, cols)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, treillage_model::Error> {
        Weights::vector(self.source, name, len)
    }

    fn has_linear(&self, prefix: &str) -> bool {
        self.quantized.contains_key(prefix) || Weights::has_linear(self.source, prefix)
    }
}
