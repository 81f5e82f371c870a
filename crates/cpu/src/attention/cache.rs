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

/// Keys and values of one head: a row per token, padded with zeros to whole vectors.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
}

/// Width at which heads of `head_dim` are stored.
pub(crate) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

impl KvCache {
    pub(crate) fn new(spec: &AttentionSpec, capacity: usize) -> Result<Self, Error> {
        if spec.kv_heads == 0 || !spec.heads.is_multiple_of(spec.kv_heads) {
            return Err(Error::Shape {
                what: format!("query heads over {} key heads", spec.kv_heads),
                expected: spec.heads.next_multiple_of(spec.kv_heads.max(1)),
                found: spec.heads,
            });
        }
        if spec.rope.dims > spec.head_dim || !spec.rope.dims.is_multiple_of(2) {
            return Err(Error::Shape {
                what: "rotated values of a head, an even number".to_owned(),
                expected: spec.head_dim & !1,
                found: spec.rope.dims,
            });
        }
        let mut heads = Vec::new();
        heads.resize_with(spec.kv_heads, Head::default);
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
    pub(crate) fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// Fails unless this cache is for `spec` and `tokens` more fit.
    pub(crate) fn check(&self, spec: &AttentionSpec, tokens: usize) -> Result<(), Error> {
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
        let values = self.len * padded(self.spec.head_dim);
        for head in &mut self.heads {
            head.keys.truncate(values);
            head.values.truncate(values);
        }
    }

    /// Appends keys and values, both `[tokens, kv_heads × head_dim]`; `key(out, position)` finishes a key that was copied to
    /// `out`.
    pub(crate) fn append(&mut self, k: &[f32], v: &[f32], key: impl Fn(&mut [f32], usize) + Sync) {
        let dim = self.spec.head_dim;
        let (width, padded, past) = (self.spec.kv_heads * dim, padded(dim), self.len);
        let tokens = k.len() / width;
        self.heads
            .par_iter_mut()
            .enumerate()
            .with_min_len((256 / tokens.max(1)).max(1))
            .for_each(|(h, head)| {
                let columns = h * dim..(h + 1) * dim;
                for (t, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
                    let start = head.keys.len();
                    head.keys.extend_from_slice(&k[columns.clone()]);
                    key(&mut head.keys[start..], past + t);
                    head.keys.resize(start + padded, 0.0);
                    head.values.extend_from_slice(&v[columns.clone()]);
                    head.values.resize(start + padded, 0.0);
                }
            });
        self.len += tokens;
    }
}
