//! Activations.

use std::sync::Arc;

use treillage_backend::Error;

use crate::arena::Region;
use crate::{ALIGNMENT, Arena, Slice};

/// Activations `[rows, width]` in f32, row-major, in memory of an [`Arena`]. Cloning copies the handle.
#[derive(Clone, Debug)]
pub struct Tensor {
    region: Arc<Region>,
    /// First byte in the region.
    offset: u64,
    rows: usize,
    width: usize,
}

impl Tensor {
    /// Room for `rows` rows of `width` values, with unspecified values in it.
    ///
    /// # Errors
    /// If the device has no memory left.
    pub fn new(arena: &Arena, rows: usize, width: usize) -> Result<Self, crate::Error> {
        let bytes = 4 * rows as u64 * width as u64;
        Ok(Self {
            region: arena.lend(bytes)?,
            offset: 0,
            rows,
            width,
        })
    }

    /// Rows: tokens.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Its memory.
    pub fn slice(&self) -> Slice {
        self.region.range(self.offset, 4 * self.len().max(1))
    }

    /// Values of all rows.
    pub(crate) fn len(&self) -> u64 {
        self.rows as u64 * self.width as u64
    }

    /// Rows `first..first + rows` in the same memory, where that can be bound.
    pub(crate) fn window(&self, first: usize, rows: usize) -> Option<Self> {
        let offset = self.offset + 4 * first as u64 * self.width as u64;
        offset.is_multiple_of(ALIGNMENT).then(|| Self {
            offset,
            rows,
            ..self.clone()
        })
    }

    /// Checks that rows have `width` values.
    pub(crate) fn check_width(&self, what: &str, width: usize) -> Result<(), Error> {
        Error::check_shape(what, width, self.width)
    }
}
