//! Activations.

use std::sync::Arc;

use treillage_backend::Error;

/// Activations in memory, row-major `[rows, cols]`, one row per token. Cloning copies the handle.
#[derive(Clone, Debug)]
pub struct Tensor {
    cols: usize,
    values: Arc<Vec<f32>>,
}

impl Tensor {
    /// `values` as rows of `cols`.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are not whole rows.
    pub(crate) fn new(values: Vec<f32>, cols: usize) -> Result<Self, Error> {
        let whole = values.len().next_multiple_of(cols.max(1));
        Error::check_shape("values of whole rows", whole, values.len())?;
        Ok(Self {
            cols,
            values: Arc::new(values),
        })
    }

    /// `rows` rows of `cols` zeros.
    pub(crate) fn zeros(rows: usize, cols: usize) -> Self {
        Self {
            cols,
            values: Arc::new(vec![0.0; rows * cols]),
        }
    }

    /// The values to be written, a copy of them if another handle holds them too.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        Arc::make_mut(&mut self.values).as_mut_slice()
    }

    /// Number of rows: tokens.
    pub fn rows(&self) -> usize {
        self.values.len() / self.cols.max(1)
    }

    /// Width of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Row `row`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}
