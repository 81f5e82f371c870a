use std::collections::HashMap;

use treillage_backend::{DenseWeights, LinearShape, LinearWeights};
use treillage_model::Weights;

use crate::{Folded, coder::Codes};

/// The original in which some linears are already quantized.
pub(crate) struct Overlay<'a> {
    source: &'a Folded<'a>,
    quantized: HashMap<String, Codes>,
}

impl<'a> Overlay<'a> {
    /// `source` as it is.
    pub(crate) fn new(source: &'a Folded<'a>) -> Self {
        Self {
            source,
            quantized: HashMap::new(),
        }
    }

    /// Puts `codes` in the place of the original under `prefix`.
    pub(crate) fn insert(&mut self, prefix: String, codes: Codes) {
        self.quantized.insert(prefix, codes);
    }
}

impl Weights for Overlay<'_> {
    fn linear(
        &self,
        prefix: &str,
        shape: LinearShape,
    ) -> Result<LinearWeights, treillage_model::Error> {
        match self.quantized.get(prefix) {
            Some(codes) => Ok(codes.weights()),
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

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, treillage_model::Error> {
        Weights::values(self.source, name, shape)
    }

    fn has_linear(&self, prefix: &str) -> bool {
        self.quantized.contains_key(prefix) || Weights::has_linear(self.source, prefix)
    }
}
