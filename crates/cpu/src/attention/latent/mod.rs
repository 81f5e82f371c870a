//! Causal multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1) in its two forms: keys and values made of all
//! latents, or queries absorbed into the latents' side.

mod cache;
mod expansion;

use std::ops::Range;

use rayon::prelude::*;
use treillage_backend::{Error, LatentInputs, LatentSpec};
use treillage_linalg::{Parallelism, View, ViewMut, gemm};

pub(crate) use cache::LatentCache;
pub use expansion::Expansion;

use super::ROWS;
use super::cache::{Head, KEYS};
use super::kernel::{Attended, Past, Queries, attend};
use super::rope::{RopeTable, RopeTables};
use crate::blocks::{Blocks, Output};
use crate::compute::Compute;
use crate::linear::dense;
use crate::moments::observe;
use crate::norm::Norm;
use crate::tensor::Tensor;

/// Heads whose absorbed queries meet the latents together: what is read of these is read for all of them at once.
const ABSORBED_HEADS: usize = 32;
/// Tokens of the context that a task lets absorbed queries meet.
const PART: usize = 8 * KEYS;

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
    fn queries(&self, head: usize, tokens: Range<usize>) -> Vec<f32> {
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

    /// Takes queries to the latents' side, some heads and tokens at a time.
    fn absorbed(&self) -> Tensor {
        let spec = &self.expansion.spec;
        let mut out = Tensor::zeros(self.q.rows(), spec.heads * spec.value_dim);
        let output = Output {
            cols: out.cols(),
            values: out.values_mut(),
        };
        let group = ABSORBED_HEADS.min(spec.heads);
        let mut blocks = Blocks::new(output, group * spec.value_dim);
        let step = (ROWS / group).max(1);
        let tasks: Vec<_> = blocks
            .iter_mut()
            .enumerate()
            .flat_map(|(block, rows)| {
                let steps = rows.chunks_mut(step).enumerate();
                steps.map(move |(i, rows)| (block * group, i * step, rows))
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
        let (value_dim, rank, width) = (spec.value_dim, spec.rank, self.cache.width());
        let tokens = out.len();
        let group = out.first().map_or(0, |row| row.len() / value_dim);
        let heads = || (0..group).into_par_iter().with_max_len(1);
        let taken: Vec<Vec<f32>> = heads()
            .map(|member| self.take(head + member, first..first + tokens))
            .collect();
        let mut absorbed = vec![0.0; tokens * group * width];
        for (row, query) in absorbed.chunks_exact_mut(width).enumerate() {
            let (token, member) = (row / group, row % group);
            let cached = spec.cached_width();
            query[..cached].copy_from_slice(&taken[member][token * cached..][..cached]);
        }
        let queries = Queries {
            rows: &absorbed,
            group,
            first: self.past + first,
        };
        let parts: Vec<usize> = (0..queries.first + tokens).step_by(PART).collect();
        let found: Vec<Attended> = parts
            .into_par_iter()
            .with_max_len(1)
            .map(|start| {
                let part = start..start + PART;
                Attended::new(self.compute.isa, &queries, self.cache, part)
            })
            .collect();
        // In their order, so that the sum does not depend on the threads.
        let merged = found.into_iter().reduce(|all, part| all.merge(&part));
        let attended = merged.map(Attended::finish).unwrap_or_default();
        let given: Vec<Vec<f32>> = heads()
            .map(|member| {
                let h = head + member;
                let rows = attended.chunks_exact(width).skip(member).step_by(group);
                let latents: Vec<f32> = rows.flat_map(|row| &row[..rank]).copied().collect();
                let mut given = vec![0.0; tokens * value_dim];
                let outputs = h * value_dim..(h + 1) * value_dim;
                let values = &self.expansion.values;
                dense(self.compute, &latents, values, outputs, &mut given);
                given
            })
            .collect();
        for (token, out) in out.iter_mut().enumerate() {
            for (out, given) in out.chunks_exact_mut(value_dim).zip(&given) {
                out.copy_from_slice(&given[token * value_dim..][..value_dim]);
            }
        }
    }

    /// Queries of one head on the latents' side, `[tokens, rank + rotated]`.
    fn take(&self, head: usize, tokens: Range<usize>) -> Vec<f32> {
        let LatentSpec { nope_dim, rank, .. } = self.expansion.spec;
        let dim = self.expansion.spec.query_dim();
        let queries = self.queries(head, tokens);
        let plain = queries.chunks_exact(dim).flat_map(|q| &q[..nope_dim]);
        let plain: Vec<f32> = plain.copied().collect();
        let mut taken = vec![0.0; queries.len() / dim * rank];
        let outputs = head * rank..(head + 1) * rank;
        let keys = &self.expansion.keys;
        dense(self.compute, &plain, keys, outputs, &mut taken);
        let halves = taken.chunks_exact(rank).zip(queries.chunks_exact(dim));
        let rows = halves.flat_map(|(taken, query)| taken.iter().chain(&query[nope_dim..]));
        rows.copied().collect()
    }
}

#[cfg(test)]
mod tests;
