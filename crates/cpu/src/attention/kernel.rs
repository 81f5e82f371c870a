//! Attention of a few queries to one head's keys and values, block by block with a running softmax
//! (FlashAttention, arXiv 2205.14135, Algorithm 1).

use std::ops::Range;

use treillage_trellis::lanes::{Isa, Kernel, Lanes};

use super::cache::KEYS;
use super::product::Product;
use crate::math::{exp, largest, sum};

/// Queries that share keys and values.
pub(super) struct Queries<'a> {
    /// Row-major, as wide as a head, scaled and rotated.
    pub(super) rows: &'a [f32],
    /// Rows per token: the query heads of one key head.
    pub(super) group: usize,
    /// Position of the first row's token.
    pub(super) first: usize,
}

/// Keys and values that queries attend to, in blocks of [`KEYS`] tokens.
pub(super) trait Past: Sync {
    /// Width of a query.
    fn query_width(&self) -> usize;

    /// Width of a row of values, a multiple of sixteen.
    fn value_width(&self) -> usize;

    /// Overwrites `scores`, `[rows, KEYS]`, with the products of queries and the keys of a block; those of tokens that are
    /// not there may be anything.
    fn score(&self, isa: Isa, queries: &[f32], block: usize, scores: &mut [f32]);

    /// Values of tokens `first` on, row-major.
    fn values(&self, first: usize) -> &[f32];
}

/// `softmax(Q Kᵀ) V` under the causal mask: a row per query, as wide as `past` stores values.
pub(super) fn attend(isa: Isa, queries: &Queries<'_>, past: &impl Past) -> Vec<f32> {
    Attended::new(isa, queries, past, 0..usize::MAX).finish()
}

/// What queries found in a part of the context: sums of values by exponentials of scores, relative to the largest score,
/// and sums of those exponentials.
pub(super) struct Attended {
    width: usize,
    out: Vec<f32>,
    tops: Vec<f32>,
    sums: Vec<f32>,
}

impl Attended {
    /// Of tokens `part`, which begins with a block, as far as queries see them.
    pub(super) fn new(
        isa: Isa,
        queries: &Queries<'_>,
        past: &impl Past,
        part: Range<usize>,
    ) -> Self {
        let (dim, width) = (past.query_width(), past.value_width());
        let rows = queries.rows.len() / dim;
        let mut found = Self {
            width,
            out: vec![0.0; rows * width],
            tops: vec![f32::NEG_INFINITY; rows],
            sums: vec![0.0; rows],
        };
        let mut scores = vec![0.0; rows * KEYS];
        let end = part.end.min(queries.first + rows / queries.group);
        for first in (part.start..end).step_by(KEYS) {
            let count = KEYS.min(end - first);
            past.score(isa, queries.rows, first / KEYS, &mut scores);
            for (row, scores) in scores.chunks_exact_mut(KEYS).enumerate() {
                let position = queries.first + row / queries.group;
                let visible = (position + 1).saturating_sub(first).min(count);
                scores[visible..].fill(0.0);
                if visible > 0 {
                    isa.run(Softmax {
                        scores: &mut scores[..visible],
                        top: &mut found.tops[row],
                        sum: &mut found.sums[row],
                        out: &mut found.out[row * width..][..width],
                    });
                }
            }
            isa.run(Product {
                a: &scores,
                stride: KEYS,
                inner: count,
                b: past.values(first),
                out: &mut found.out,
                cols: width,
            });
        }
        found
    }

    /// Adds what the same queries found in another part.
    pub(super) fn merge(mut self, other: &Self) -> Self {
        for row in 0..self.tops.len() {
            let top = self.tops[row].max(other.tops[row]);
            // A part that a query does not see has no largest score.
            let factor = |of: f32| if of == top { 1.0 } else { (of - top).exp() };
            let (own, others) = (factor(self.tops[row]), factor(other.tops[row]));
            self.tops[row] = top;
            self.sums[row] = own * self.sums[row] + others * other.sums[row];
            let span = row * self.width..(row + 1) * self.width;
            for (out, other) in self.out[span.clone()].iter_mut().zip(&other.out[span]) {
                *out = own * *out + others * other;
            }
        }
        self
    }

    /// A row per query.
    pub(super) fn finish(self) -> Vec<f32> {
        let mut out = self.out;
        for (row, sum) in out.chunks_exact_mut(self.width).zip(&self.sums) {
            for value in row {
                *value /= sum;
            }
        }
        out
    }
}

/// One step of the running softmax of one row: scores become exponentials relative to the largest score so far, and
/// what was summed relative to an earlier one is rescaled.
struct Softmax<'a> {
    scores: &'a mut [f32],
    top: &'a mut f32,
    sum: &'a mut f32,
    out: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Softmax {
            scores,
            top,
            sum: total,
            out,
        } = self;
        let larger = largest(scores).max(*top);
        if larger > *top {
            let factor = exp(*top - larger);
            *top = larger;
            *total *= factor;
            for value in out {
                *value *= factor;
            }
        }
        for score in scores.iter_mut() {
            *score = exp(*score - larger);
        }
        *total += sum(scores, |x| x);
    }
}
