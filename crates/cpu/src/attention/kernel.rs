//! Attention of a few queries to one head's keys and values, block by block with a running softmax
//! (FlashAttention, arXiv 2205.14135, Algorithm 1).

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
    let (dim, width) = (past.query_width(), past.value_width());
    let rows = queries.rows.len() / dim;
    let mut out = vec![0.0; rows * width];
    let mut tops = vec![f32::NEG_INFINITY; rows];
    let mut sums = vec![0.0; rows];
    let mut scores = vec![0.0; rows * KEYS];
    let end = queries.first + rows / queries.group;
    for (block, first) in (0..end).step_by(KEYS).enumerate() {
        let count = KEYS.min(end - first);
        past.score(isa, queries.rows, block, &mut scores);
        for (row, scores) in scores.chunks_exact_mut(KEYS).enumerate() {
            let position = queries.first + row / queries.group;
            let visible = (position + 1).saturating_sub(first).min(count);
            scores[visible..].fill(0.0);
            if visible > 0 {
                isa.run(Softmax {
                    scores: &mut scores[..visible],
                    top: &mut tops[row],
                    sum: &mut sums[row],
                    out: &mut out[row * width..][..width],
                });
            }
        }
        isa.run(Product {
            a: &scores,
            stride: KEYS,
            inner: count,
            b: past.values(first),
            out: &mut out,
            cols: width,
        });
    }
    for (row, sum) in out.chunks_exact_mut(width).zip(&sums) {
        for value in row {
            *value /= sum;
        }
    }
    out
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
