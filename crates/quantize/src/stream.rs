use treillage_backend::Inference;
use treillage_model::{Block, Embedding};

use crate::{CalibrationTokens, Error};

/// The residual stream of all calibration rows between two blocks, on the host.
#[derive(Clone)]
pub(crate) struct Stream {
    /// Row by row, `[cols, width]` each.
    values: Vec<f32>,
    cols: usize,
    width: usize,
}

impl Stream {
    /// What enters the first block.
    pub(crate) fn embed<B: Inference>(
        backend: &B,
        embedding: &Embedding<B>,
        tokens: &CalibrationTokens,
        width: usize,
    ) -> Result<Self, Error> {
        let mut values = Vec::with_capacity(tokens.rows().len() * tokens.cols() * width);
        for row in tokens.rows() {
            let x = embedding.forward(backend, row)?;
            values.extend(backend.read(&x)?);
        }
        Ok(Self {
            values,
            cols: tokens.cols(),
            width,
        })
    }

    /// Each row on the backend.
    pub(crate) fn rows<B: Inference>(
        &self,
        backend: &B,
    ) -> impl Iterator<Item = Result<B::Tensor, Error>> {
        self.values
            .chunks_exact(self.cols * self.width)
            .map(|row| Ok(backend.upload(row, self.width)?))
    }

    /// Bytes that all rows take.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.values.as_slice())
    }

    /// Bytes that those of `tokens` take, `width` values each.
    pub(crate) fn bytes_of(tokens: &CalibrationTokens, width: usize) -> usize {
        tokens.rows().len() * tokens.cols() * width * size_of::<f32>()
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.values.len() / (self.cols * self.width)
    }

    /// Sends the rows that `which` says through `block` and keeps nothing but what its watched linears gather.
    pub(crate) fn observe<B: Inference>(
        &self,
        backend: &B,
        block: &Block<B>,
        which: impl Fn(usize) -> bool,
        mut after_row: impl FnMut(),
    ) -> Result<(), Error> {
        let mut cache = block.new_cache(backend, self.cols)?;
        for (_, x) in self
            .rows(backend)
            .enumerate()
            .filter(|(row, _)| which(*row))
        {
            backend.truncate_cache(&mut cache, 0);
            settle(backend, &block.forward(backend, &x?, &mut cache)?)?;
            after_row();
        }
        Ok(())
    }

    /// Replaces every row by what `block`, number `index`, makes of it.
    ///
    /// # Errors
    /// [`Error::ActivationsNotFinite`], and the backend's.
    pub(crate) fn advance<B: Inference>(
        &mut self,
        backend: &B,
        block: &Block<B>,
        index: usize,
        mut after_row: impl FnMut(usize),
    ) -> Result<(), Error> {
        let mut cache = block.new_cache(backend, self.cols)?;
        let rows = self.values.chunks_exact_mut(self.cols * self.width);
        for (row, values) in rows.enumerate() {
            backend.truncate_cache(&mut cache, 0);
            let x = backend.upload(values, self.width)?;
            let y = block.forward(backend, &x, &mut cache);
            let y = y.and_then(|y| Ok(backend.read(&y)?));
            match y {
                Ok(y) if y.iter().all(|v| v.is_finite()) => values.copy_from_slice(&y),
                Err(error) if !error.is_not_finite() => return Err(error.into()),
                _ => return Err(Error::ActivationsNotFinite { block: index, row }),
            }
            after_row(row);
        }
        Ok(())
    }
}

/// Waits for `x`, so that rows do not pile up on a backend that runs behind, and what is not finite is found where it begins.
pub(crate) fn settle<B: Inference>(backend: &B, x: &B::Tensor) -> Result<(), Error> {
    backend.read(&backend.select_rows(x, &[0])?)?;
    Ok(())
}
