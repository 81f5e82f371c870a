//! Keys and values of one layer.

use rayon::prelude::*;
use treillage_backend::{AttentionSpec, Error, Room};
use treillage_trellis::lanes::{Isa, LANES};

use super::kernel::Past;
use super::product::Product;

/// Keys and values of one layer, for one sequence.
#[derive(Debug)]
pub(crate) struct KvCache {
    spec: AttentionSpec,
    room: Room,
    heads: Vec<Head>,
}

/// Keys that a task finishes and stores: fewer are not worth a thread.
const MIN_TOKENS: usize = 64;
/// Tokens whose keys are stored together: with their values they fit the L2 cache.
pub(super) const KEYS: usize = 64;

/// Keys and values of one head, laid out so that products with both run along memory.
#[derive(Debug)]
pub(super) struct Head {
    key_dim: usize,
    value_dim: usize,
    /// Blocks of [`KEYS`] tokens, each `[key_dim, KEYS]`.
    keys: Vec<f32>,
    /// A row per token, padded with zeros to whole vectors.
    values: Vec<f32>,
}

impl Head {
    fn new(key_dim: usize, value_dim: usize) -> Self {
        Self {
            key_dim,
            value_dim,
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    /// A head of `tokens` whose keys and values are zeros, to be filled: all blocks of keys, and all rows of values.
    pub(super) fn zeros(key_dim: usize, value_dim: usize, tokens: usize) -> Self {
        let mut head = Self::new(key_dim, value_dim);
        head.keys = vec![0.0; tokens.next_multiple_of(KEYS) * key_dim];
        head.values = vec![0.0; tokens * head.value_width()];
        head
    }

    /// Blocks of keys, `[key_dim, KEYS]` each, and the rows of values that go with each.
    pub(super) fn blocks_mut(&mut self) -> impl Iterator<Item = (&mut [f32], &mut [f32])> {
        let width = self.value_width();
        self.keys
            .chunks_exact_mut(KEYS * self.key_dim)
            .zip(self.values.chunks_mut(KEYS * width))
    }

    fn push(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let (block, column) = (position / KEYS, position % KEYS);
        self.keys.resize((block + 1) * KEYS * self.key_dim, 0.0);
        let block = &mut self.keys[block * KEYS * self.key_dim..];
        for (row, key) in block.chunks_exact_mut(KEYS).zip(key) {
            row[column] = *key;
        }
        self.values.extend_from_slice(value);
        self.values.resize((position + 1) * self.value_width(), 0.0);
    }

    fn truncate(&mut self, len: usize) {
        self.keys.truncate(len.div_ceil(KEYS) * KEYS * self.key_dim);
        self.values.truncate(len * self.value_width());
    }
}

impl Past for Head {
    fn query_width(&self) -> usize {
        self.key_dim
    }

    fn value_width(&self) -> usize {
        self.value_dim.next_multiple_of(LANES)
    }

    fn score(&self, isa: Isa, queries: &[f32], block: usize, scores: &mut [f32]) {
        scores.fill(0.0);
        isa.run(Product {
            a: queries,
            stride: self.key_dim,
            inner: self.key_dim,
            b: &self.keys[block * KEYS * self.key_dim..][..KEYS * self.key_dim],
            out: scores,
            cols: KEYS,
        });
    }

    fn values(&self, first: usize) -> &[f32] {
        &self.values[first * self.value_width()..]
    }
}

impl KvCache {
    pub(crate) fn new(spec: &AttentionSpec, capacity: usize) -> Self {
        let mut heads = Vec::new();
        heads.resize_with(spec.kv_heads, || Head::new(spec.head_dim, spec.head_dim));
        Self {
            spec: *spec,
            room: Room::new(capacity),
            heads,
        }
    }

    /// Tokens in it.
    pub(crate) fn len(&self) -> usize {
        self.room.len
    }

    /// Each head's keys and values.
    pub(super) fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// Fails unless this cache is for `spec` and `tokens` more fit.
    pub(crate) fn check(&self, spec: &AttentionSpec, tokens: usize) -> Result<(), Error> {
        Error::check_shape("query heads of a cache", self.spec.heads, spec.heads)?;
        Error::check_shape("key heads of a cache", self.spec.kv_heads, spec.kv_heads)?;
        Error::check_shape("head width of a cache", self.spec.head_dim, spec.head_dim)?;
        self.room.check(tokens)
    }

    /// Forgets all but the first `len` tokens.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.room.truncate(len);
        for head in &mut self.heads {
            head.truncate(self.room.len);
        }
    }

    /// Appends keys and values, both `[tokens, kv_heads × head_dim]`; `finish(key, position)` normalises and rotates a key.
    pub(super) fn append(
        &mut self,
        k: &[f32],
        v: &[f32],
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) {
        let (dim, past) = (self.spec.head_dim, self.room.len);
        let width = self.spec.kv_heads * dim;
        let tokens = k.len() / width;
        self.heads
            .par_iter_mut()
            .enumerate()
            .with_min_len(MIN_TOKENS.div_ceil(tokens.max(1)))
            .for_each(|(h, head)| {
                let columns = h * dim..(h + 1) * dim;
                let mut key = vec![0.0; dim];
                for (t, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
                    key.copy_from_slice(&k[columns.clone()]);
                    finish(&mut key, past + t);
                    head.push(past + t, &key, &v[columns.clone()]);
                }
            });
        self.room.len += tokens;
    }
}
