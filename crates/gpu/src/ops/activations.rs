//! Activations between ops, of which the last step may be yet to come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use treillage_backend::Error;

use super::combine::Sum;
use super::norm::Norm;
use crate::{Context, Tensor};

/// Activations `[rows, width]`, as ops give and take them. Cloning copies the handle.
///
/// What a routed block ends with, adding up what its experts made, waits for whoever reads the result: as a rule a norm, which
/// the same kernel can compute. No op sees the values before.
#[derive(Clone, Debug)]
pub struct Activations {
    tensor: Tensor,
    /// What is to be added up in `tensor`, until it is.
    sum: Option<Arc<Mutex<Option<Sum>>>>,
    /// The flag of the block that ends with them, if one does: a norm of the next reads them first.
    flag: Option<u32>,
}

impl From<Tensor> for Activations {
    fn from(tensor: Tensor) -> Self {
        Self {
            tensor,
            sum: None,
            flag: None,
        }
    }
}

impl Activations {
    /// `sum`, to be added up when it is read.
    pub(crate) fn later(context: &Context, sum: Sum) -> Result<Self, Error> {
        Ok(Self {
            tensor: context.tensor(sum.rows(), sum.width())?,
            flag: Some(sum.flag),
            sum: Some(Arc::new(Mutex::new(Some(sum)))),
        })
    }

    /// The same, as the end of a block whose flag is `flag`.
    pub(crate) fn ending(self, flag: u32) -> Self {
        Self {
            flag: Some(flag),
            ..self
        }
    }

    /// Rows: tokens.
    pub fn rows(&self) -> usize {
        self.tensor.rows()
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.tensor.width()
    }

    /// What is to be added up. Held while that is recorded, so that nobody reads before.
    fn sum(&self) -> Option<MutexGuard<'_, Option<Sum>>> {
        let sum = self.sum.as_ref()?;
        Some(sum.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The values.
    pub(crate) fn ready(&self, context: &Context) -> Result<&Tensor, Error> {
        if let Some(mut waiting) = self.sum()
            && let Some(sum) = &*waiting
        {
            sum.add_up(context, &self.tensor)?;
            *waiting = None;
        }
        Ok(&self.tensor)
    }

    /// Their norm.
    pub(crate) fn normed(&self, context: &Context, norm: &Norm) -> Result<Tensor, Error> {
        if !context.guard.is_plain()
            && let Some(mut waiting) = self.sum()
            && let Some(sum) = &*waiting
            && let Some(normed) = sum.add_up_and_norm(context, &self.tensor, norm)?
        {
            *waiting = None;
            return Ok(normed);
        }
        let flag = self.flag.unwrap_or_else(|| context.guard.flag());
        norm.apply(context, self.ready(context)?, flag)
    }
}
