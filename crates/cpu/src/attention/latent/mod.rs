//! Causal multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1) in its two forms: keys and values made of all
//! latents, or queries absorbed into the latents' side.

mod cache;
mod expansion;

use rayon::prelude::*;
use treillage_backend::{Error, LatentInputs, LatentSpec};
use treillage_linalg::{Parallelism, View, ViewMut, gemm};

pub(crate) use cache::LatentCache;
pub use expansion::Expansion;

use super::ROWS;
use super::cache::{Head, KEYS};
use super::kernel::{Past, Queries, attend};
use super::rope::{RopeTable, RopeTables};
use crate::blocks::{Blocks, Output};
use crate::compute::Compute;
use crate::linear::dense;
use crate::moments::observe;
use crate::norm::Norm;
use crate::tensor::Tensor;

/// Heads whose absorbed queries meet the latents together.
const ABSORBED_HEADS: usize = 4;

/// Attention of new tokens to the cache and to each other.
pub(crate) fn latent_attention(
    compute: Compute,
    inputs: &LatentInputs<'_, Tensor, Norm>,
    expansion: &Expansion,
    spec: &LatentSpec,
    cache: &mut LatentCache,
    tables: &RopeTables,
) -> Result<Tensor, Error> {
    check(inputs, expansion, spec)?;
    let (past, tokens) = (cache.len(), inputs.q.rows());
    cache.check(spec, tokens)?;

    let mut latents = Vec::with_capacity(tokens * spec.rank);
    for token in 0..tokens {
        latents.extend_from_slice(&inputs.latent.row(token)[..spec.rank]);
    }
    latents
        .par_chunks_exact_mut(spec.rank)
        .with_min_len(super::MIN_HEADS)
        .for_each(|latent| inputs.norm.apply_in_place(compute.isa, latent));
    observe(&latents, expansion.watched().into_iter())?;
    let table = tables.get(spec.rope, past + tokens);
    cache.append(&latents, |key, token| {
        key.copy_from_slice(&inputs.latent.row(token)[spec.rank..]);
        table.rotate(key, past + token);
    });
    let attention = Attention {
        compute,
        q: inputs.q,
        expansion,
        cache,
        table: &table,
        past,
    };
    Ok(match absorbs(spec, past, tokens) {
        true => attention.absorbed(),
        false => attention.expanded(),
    })
}

fn check(
    inputs: &LatentInputs<'_, Tensor, Norm>,
    expansion: &Expansion,
    spec: &LatentSpec,
) -> Result<(), Error> {
    let LatentInputs { q, latent, norm } = inputs;
    let (own, wide) = (&expansion.spec, spec.heads * spec.query_dim());
    let sizes = [
        ("width of queries", wide, q.cols()),
        ("width of latents", spec.cached_width(), latent.cols()),
        ("tokens of latents", q.rows(), latent.rows()),
        ("heads of an expansion", own.heads, spec.heads),
        ("keys of an expansion", own.nope_dim, spec.nope_dim),
        ("values of an expansion", own.value_dim, spec.value_dim),
        ("latents of an expansion", own.rank, spec.rank),
    ];
    for (what, expected, found) in sizes {
        Error::check_shape(what, expected, found)?;
    }
    norm.check(spec.rank)
}

/// Whether absorbed queries need fewer multiplications than keys and values of all tokens: few queries do.
fn absorbs(spec: &LatentSpec, past: usize, tokens: usize) -> bool {
    let (new, all) = (tokens as f64, (past + tokens) as f64);
    let weights = spec.expansion().weights() as f64;
    let of_pair = |width: usize| (spec.heads * width) as f64;
    let absorbed = new * weights + new * all * of_pair(spec.rank + spec.cached_width());
    let expanded = all * weights + new * all * of_pair(spec.query_dim() + spec.value_dim);
    absorbed < expanded
}

/// New queries over a cache that has their tokens.
struct Attention<'a> {
    compute: Compute,
    q: &'a Tensor,
    expansion: &'a Expansion,
    cache: &'a LatentCache,
    table: &'a RopeTable,
    past: usize,
}

impl Attention<'_> {
    /// Queries of one head, `[tokens, query_dim]`, rotated and scaled.
    fn queries(&self, head: usize, tokens: std::ops::Range<usize>) -> Vec<f32> {
        let spec = &self.expansion.spec;
        let dim = spec.query_dim();
        let mut queries = Vec::with_capacity(tokens.len() * dim);
        for token in tokens {
            let start = queries.len();
            queries.extend_from_slice(&self.q.row(token)[head * dim..][..dim]);
            let query = &mut queries[start..];
            self.table
                .rotate(&mut query[spec.nope_dim..], self.past + token);
            query.iter_mut().for_each(|x| *x *= spec.scale);
        }
        queries
    }

    /// Makes keys and values of all latents, one head after another on each thread.
    fn expanded(&self) -> Tensor {
        let spec = &self.expansion.spec;
        let mut out = Tensor::zeros(self.q.rows(), spec.heads * spec.value_dim);
        let output = Output {
            cols: out.cols(),
            values: out.values_mut(),
        };
        let mut blocks = Blocks::new(output, spec.value_dim);
        let heads: Vec<_> = blocks.iter_mut().enumerate().collect();
        heads.into_par_iter().with_max_len(1).for_each(|(h, rows)| {
            let head = self.head(h);
            let steps = rows.par_chunks_mut(ROWS).enumerate().with_max_len(1);
            steps.for_each(|(step, rows)| {
                let first = step * ROWS;
                let queries = Queries {
                    rows: &self.queries(h, first..first + rows.len()),
                    group: 1,
                    first: self.past + first,
                };
                let attended = attend(self.compute.isa, &queries, &head);
                let attended = attended.chunks_exact(head.value_width());
                for (out, attended) in rows.iter_mut().zip(attended) {
                    out.copy_from_slice(&attended[..spec.value_dim]);
                }
            });
        });
        out
    }

    /// Keys and values of head `h`.
    fn head(&self, h: usize) -> Head {
        let LatentSpec {
            nope_dim,
            value_dim,
            rank,
            ..
        } = self.expansion.spec;
        let Expansion { keys, values, .. } = self.expansion;
        let keys = keys.rows_f32(h * rank..(h + 1) * rank);
        let values = values.rows_f32(h * value_dim..(h + 1) * value_dim);
        let (keys, values) = (
            View::row_major(&keys, rank, nope_dim),
            View::row_major(&values, value_dim, rank),
        );
        let dim = self.expansion.spec.query_dim();
        let mut head = Head::zeros(dim, value_dim, self.cache.len());
        let (wide, width) = (head.value_width(), self.cache.width());
        for (block, (key_block, value_rows)) in head.blocks_mut().enumerate() {
            let rows = self.cache.block(block);
            let latents = View::row_major(rows, KEYS, width).window(0..KEYS, 0..rank);
            let (unrotated, rotated) = key_block.split_at_mut(nope_dim * KEYS);
            let out = ViewMut::row_major(unrotated, nope_dim, KEYS);
            let (a, b) = (keys.transpose(), latents.transpose());
            gemm(1.0, a, b, 0.0, out, Parallelism::Sequential);
            for (i, keys) in rotated.chunks_exact_mut(KEYS).enumerate() {
                for (key, row) in keys.iter_mut().zip(rows.chunks_exact(width)) {
                    *key = row[rank + i];
                }
            }
            let count = value_rows.len() / wide;
            let out = ViewMut::row_major(value_rows, count, wide).window(0..count, 0..value_dim);
            let latents = latents.window(0..count, 0..rank);
            let values = values.transpose();
            gemm(1.0, latents, values, 0.0, out, Parallelism::Sequential);
        }
        head
    }

    /// Takes queries to the latents' side, a few heads and tokens at a time.
    fn absorbed(&self) -> Tensor {
        let spec = &self.expansion.spec;
        let mut out = Tensor::zeros(self.q.rows(), spec.heads * spec.value_dim);
        let output = Output {
            cols: out.cols(),
            values: out.values_mut(),
        };
        let mut blocks = Blocks::new(output, ABSORBED_HEADS * spec.value_dim);
        let step = ROWS / ABSORBED_HEADS;
        let tasks: Vec<_> = blocks
            .iter_mut()
            .enumerate()
            .flat_map(|(block, rows)| {
                let steps = rows.chunks_mut(step).enumerate();
                steps.map(move |(i, rows)| (block * ABSORBED_HEADS, i * step, rows))
            })
            .collect();
        tasks
            .into_par_iter()
            .with_max_len(1)
            .for_each(|(head, first, rows)| self.absorb(head, first, rows));
        out
    }

    /// The heads from `head` on and the tokens from `first` on that `out` has rows for.
    fn absorb(&self, head: usize, first: usize, out: &mut [&mut [f32]]) {
        let spec = &self.expansion.spec;
        let LatentSpec {
            value_dim, rank, ..
        } = *spec;
        let (dim, nope, width) = (spec.query_dim(), spec.nope_dim, self.cache.width());
        let tokens = out.len();
        let group = out.first().map_or(0, |row| row.len() / value_dim);
        let mut absorbed = vec![0.0; tokens * group * width];
        for member in 0..group {
            let h = head + member;
            let queries = self.queries(h, first..first + tokens);
            let plain = queries.chunks_exact(dim).flat_map(|q| &q[..nope]);
            let plain: Vec<f32> = plain.copied().collect();
            let mut taken = vec![0.0; tokens * rank];
            let keys = &self.expansion.keys;
            dense(
                self.compute,
                &plain,
                keys,
                h * rank..(h + 1) * rank,
                &mut taken,
            );
            let rows = absorbed.chunks_exact_mut(width).skip(member).step_by(group);
            let halves = taken.chunks_exact(rank).zip(queries.chunks_exact(dim));
            for (row, (taken, query)) in rows.zip(halves) {
                row[..rank].copy_from_slice(taken);
                row[rank..spec.cached_width()].copy_from_slice(&query[nope..]);
            }
        }
        let queries = Queries {
            rows: &absorbed,
            group,
            first: self.past + first,
        };
        let attended = attend(self.compute.isa, &queries, self.cache);
        for member in 0..group {
            let h = head + member;
            let rows = attended.chunks_exact(width).skip(member).step_by(group);
            let latents: Vec<f32> = rows.flat_map(|row| &row[..rank]).copied().collect();
            let mut given = vec![0.0; tokens * value_dim];
            let outputs = h * value_dim..(h + 1) * value_dim;
            let values = &self.expansion.values;
            dense(self.compute, &latents, values, outputs, &mut given);
            for (out, given) in out.iter_mut().zip(given.chunks_exact(value_dim)) {
                out[member * value_dim..][..value_dim].copy_from_slice(given);
            }
        }
    }
}

#[cfg(test)]
mod tests;
