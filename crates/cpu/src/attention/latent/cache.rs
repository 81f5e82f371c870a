//! Latents of one layer.

use treillage_backend::{Error, LatentSpec, Room};
use treillage_trellis::lanes::{Isa, LANES};

use super::super::cache::KEYS;
use super::super::kernel::Past;
use crate::dots::{FEW_ROWS, dots, many_dots};

/// The latents of one layer, for one sequence, and beside each the part of the keys that rotates: as they are, they are
/// keys and values of queries on the latents' side.
#[derive(Debug)]
pub(crate) struct LatentCache {
    spec: LatentSpec,
    room: Room,
    /// A row per token, padded with zeros to whole vectors, and rows of anything to whole blocks of [`KEYS`].
    rows: Vec<f32>,
}

impl LatentCache {
    pub(crate) fn new(spec: &LatentSpec, capacity: usize) -> Self {
        Self {
            spec: *spec,
            room: Room::new(capacity),
            rows: Vec::new(),
        }
    }

    /// Tokens in it.
    pub(crate) fn len(&self) -> usize {
        self.room.len
    }

    /// Forgets all but the first `len` tokens.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.room.truncate(len);
    }

    /// Fails unless this cache is for `spec` and `tokens` more fit.
    pub(crate) fn check(&self, spec: &LatentSpec, tokens: usize) -> Result<(), Error> {
        Error::check_shape("latents of a cache", self.spec.rank, spec.rank)?;
        Error::check_shape(
            "rotated keys of a cache",
            self.spec.rope.dims,
            spec.rope.dims,
        )?;
        self.room.check(tokens)
    }

    /// Appends latents, `[tokens, rank]`, each with the rotated key that `finish(key, token)` makes.
    pub(super) fn append(&mut self, latents: &[f32], finish: impl Fn(&mut [f32], usize)) {
        let (rank, width) = (self.spec.rank, self.width());
        let tokens = latents.len() / rank;
        let end = (self.room.len + tokens).next_multiple_of(KEYS);
        let rows = self.rows.len().max(end * width);
        self.rows.resize(rows, 0.0);
        let rows = self.rows[self.room.len * width..].chunks_exact_mut(width);
        for (token, (row, latent)) in rows.zip(latents.chunks_exact(rank)).enumerate() {
            let (place, key) = row.split_at_mut(rank);
            place.copy_from_slice(latent);
            finish(&mut key[..self.spec.rope.dims], token);
        }
        self.room.len += tokens;
    }

    /// Width of a row.
    pub(super) fn width(&self) -> usize {
        self.spec.cached_width().next_multiple_of(LANES)
    }

    /// The rows of a block of [`KEYS`] tokens.
    pub(super) fn block(&self, block: usize) -> &[f32] {
        let size = KEYS * self.width();
        &self.rows[block * size..][..size]
    }
}

impl Past for LatentCache {
    fn query_width(&self) -> usize {
        self.width()
    }

    fn value_width(&self) -> usize {
        self.width()
    }

    fn score(&self, isa: Isa, queries: &[f32], block: usize, scores: &mut [f32]) {
        let (rows, width) = (self.block(block), self.width());
        if queries.len() > 2 * FEW_ROWS * width {
            return many_dots(queries, rows, width, scores);
        }
        let few = queries.chunks(FEW_ROWS * width);
        for (queries, scores) in few.zip(scores.chunks_mut(FEW_ROWS * KEYS)) {
            dots(isa, queries, rows, width, scores);
        }
    }

    fn values(&self, first: usize) -> &[f32] {
        &self.rows[first * self.width()..]
    }
}
