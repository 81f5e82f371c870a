//! Keys and values of one layer.

use rayon::prelude::*;
use treillage_backend::{AttentionSpec, Error};
use treillage_trellis::lanes::LANES;

/// Keys and values of one layer, for one sequence, in f32. It grows with the tokens it holds.
#[derive(Debug)]
pub struct KvCache {
    spec: AttentionSpec,
    capacity: usize,
    len: usize,
    heads: Vec<Head>,
}

/// Keys that a task finishes and stores: fewer are not worth a thread.
const MIN_TOKENS: usize = 64;
/// Tokens whose keys are stored together: with their values they fit the L2 cache.
pub(super) const KEYS: usize = 64;

/// Keys and values of one head, laid out so that products with both run along memory.
#[derive(Debug)]
pub(super) struct Head {
    dim: usize,
    /// Blocks of [`KEYS`] tokens, each `[dim, KEYS]`.
    keys: Vec<f32>,
    /// A row per token, padded with zeros to whole vectors.
    values: Vec<f32>,
}

impl Head {
    fn new(dim: usize) -> Self {
        Self {
            dim,
            keys: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Values of a head.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Width of a row of [`Head::values`].
    pub(super) fn width(&self) -> usize {
        self.dim.next_multiple_of(LANES)
    }

    /// Keys of tokens `KEYS × block` on; columns of tokens that are not there hold anything.
    pub(super) fn keys(&self, block: usize) -> &[f32] {
        &self.keys[block * KEYS * self.dim..][..KEYS * self.dim]
    }

    /// Values of tokens `first` on, row-major.
    pub(super) fn values(&self, first: usize) -> &[f32] {
        &self.values[first * self.width()..]
    }

    fn push(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let (block, column) = (position / KEYS, position % KEYS);
        self.keys.resize((block + 1) * KEYS * self.dim, 0.0);
        let block = &mut self.keys[block * KEYS * self.dim..];
        for (row, key) in block.chunks_exact_mut(KEYS).zip(key) {
            row[column] = *key;
        }
        self.values.extend_from_slice(value);
        self.values.resize((position + 1) * self.width(), 0.0);
    }

    fn truncate(&mut self, len: usize) {
        self.keys.truncate(len.div_ceil(KEYS) * KEYS * self.dim);
        self.values.truncate(len * self.width());
    }
}

impl KvCache {
    pub(crate) fn new(spec: &AttentionSpec, capacity: usize) -> Result<Self, Error> {
        spec.check()?;
        let mut heads = Vec::new();
        heads.resize_with(spec.kv_heads, || Head::new(spec.head_dim));
        Ok(Self {
            spec: *spec,
            capacity,
            len: 0,
            heads,
        })
    }

    /// Tokens in it.
    pub(crate) fn len(&self) -> usize {
        self.len
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
        let needed = self.len + tokens;
        if needed > self.capacity {
            return Err(Error::CacheFull {
                capacity: self.capacity,
                needed,
            });
        }
        Ok(())
    }

    /// Forgets all but the first `len` tokens.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        for head in &mut self.heads {
            head.truncate(self.len);
        }
    }

    /// Appends keys and values, both `[tokens, kv_heads × head_dim]`; `finish(key, position)` normalises and rotates a key.
    pub(super) fn append(
        &mut self,
        k: &[f32],
        v: &[f32],
        finish: impl Fn(&mut [f32], usize) + Sync,
    ) {
        let (dim, past) = (self.spec.head_dim, self.len);
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
        self.len += tokens;
    }
}
