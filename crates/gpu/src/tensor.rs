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
    /// Bytes from the first half of a gated pair to the second, 0 for plain values.
    pair: u64,
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
            pair: 0,
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
        let bytes = self.pair + 4 * self.len().max(1);
        self.region.range(self.offset, bytes)
    }

    /// `rows` rows of `width` values in the same memory, from value `start` on, a multiple of 64.
    pub(crate) fn part(&self, start: usize, rows: usize, width: usize) -> Self {
        Self {
            offset: self.offset + 4 * start as u64,
            rows,
            width,
            ..self.clone()
        }
    }

    /// `silu(gate) ∘ up`, not computed, for linears that [take](crate::linear::Linear::takes_gated) such an input; `None` unless
    /// `up` lies behind `gate` in the same memory.
    pub(crate) fn gated(gate: &Self, up: &Self) -> Option<Self> {
        let alike = Arc::ptr_eq(&gate.region, &up.region)
            && (gate.rows, gate.width) == (up.rows, up.width)
            && (gate.pair, up.pair) == (0, 0)
            && up.offset > gate.offset;
        alike.then(|| Self {
            pair: up.offset - gate.offset,
            ..gate.clone()
        })
    }

    /// Memory that has all of these tensors, beginning with the first, and the value from which on each lies in it; `None` unless they
    /// lie in one region in this order.
    pub(crate) fn joint<const N: usize>(tensors: [&Self; N]) -> Option<(Slice, [u32; N])> {
        let (first, last) = (tensors.first()?, tensors.last()?);
        let in_order = tensors.is_sorted_by_key(|tensor| tensor.offset);
        let together = |tensor: &&Self| Arc::ptr_eq(&tensor.region, &first.region);
        if !in_order || !tensors.iter().all(together) {
            return None;
        }
        let bytes = last.offset - first.offset + last.slice().size();
        let starts = tensors.map(|tensor| ((tensor.offset - first.offset) / 4) as u32);
        Some((first.region.range(first.offset, bytes), starts))
    }

    /// Values from the first half of a gated pair to the second, 0 for plain values.
    pub(crate) fn up(&self) -> u32 {
        (self.pair / 4) as u32
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
