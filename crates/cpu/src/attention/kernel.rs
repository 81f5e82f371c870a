//! Attention of a few queries to one head's keys and values, block by block with a running softmax
//! (FlashAttention, arXiv 2205.14135, Algorithm 1).

use treillage_trellis::lanes::{Isa, Kernel, LANES, Lanes};

use crate::dots::dots;
use crate::exp::exp;

/// Keys per block: with their values they fit the L1 or L2 cache.
const KEYS: usize = 64;

/// Queries that share keys and values.
pub(crate) struct Queries<'a> {
    /// Row-major, `width` values a row, scaled and rotated.
    pub(crate) rows: &'a [f32],
    /// Rows per token: the query heads of one key head.
    pub(crate) group: usize,
    /// Position of the first row's token.
    pub(crate) first: usize,
}

/// `softmax(Q Kᵀ) V` under the causal mask, row-major as the queries.
pub(crate) fn attend(
    isa: Isa,
    queries: &Queries<'_>,
    keys: &[f32],
    values: &[f32],
    width: usize,
) -> Vec<f32> {
    let rows = queries.rows.len() / width;
    let mut out = vec![0.0; rows * width];
    let mut largest = vec![f32::NEG_INFINITY; rows];
    let mut sums = vec![0.0; rows];
    let mut scores = vec![0.0; rows * KEYS];
    let end = queries.first + rows / queries.group;
    for first in (0..end).step_by(KEYS) {
        let count = KEYS.min(end - first);
        let span = first * width..(first + count) * width;
        let scores = &mut scores[..rows * count];
        dots(isa, queries.rows, &keys[span.clone()], width, scores);
        for (row, scores) in scores.chunks_exact_mut(count).enumerate() {
            let position = queries.first + row / queries.group;
            let visible = (position + 1).saturating_sub(first).min(count);
            scores[visible..].fill(0.0);
            if visible > 0 {
                isa.run(Softmax {
                    scores: &mut scores[..visible],
                    largest: &mut largest[row],
                    sum: &mut sums[row],
                    out: &mut out[row * width..][..width],
                });
            }
        }
        isa.run(Mix {
            weights: scores,
            values: &values[span],
            width,
            out: &mut out,
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
    largest: &'a mut f32,
    sum: &'a mut f32,
    out: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let Softmax {
            scores,
            largest,
            sum,
            out,
        } = self;
        let mut top = *largest;
        for &score in &*scores {
            top = if score > top { score } else { top };
        }
        if top > *largest {
            let factor = exp(*largest - top);
            *largest = top;
            *sum *= factor;
            for value in out {
                *value *= factor;
            }
        }
        for score in scores.iter_mut() {
            *score = exp(*score - top);
        }
        for &score in &*scores {
            *sum += score;
        }
    }
}

/// `out[r] += Σ_j weights[r][j] · values[j]`.
struct Mix<'a> {
    weights: &'a [f32],
    values: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        if L::ROWS >= 4 {
            self.tiles::<L, 4, 4>(lanes);
        } else {
            self.tiles::<L, 2, 2>(lanes);
        }
    }
}

impl Mix<'_> {
    /// Tiles of `R` rows and `C` vectors.
    #[inline(always)]
    fn tiles<L: Lanes, const R: usize, const C: usize>(self, lanes: L) {
        let Mix {
            weights,
            values,
            width,
            out,
        } = self;
        let (rows, keys) = (out.len() / width, values.len() / width);
        let mut r = 0;
        while r < rows {
            let height = if r + R <= rows { R } else { 1 };
            let weights = &weights[r * keys..][..height * keys];
            let out = &mut out[r * width..][..height * width];
            let mut c = 0;
            while c < width {
                let wide = c + C * LANES <= width;
                match (height == R, wide) {
                    (true, true) => mix::<L, R, C>(lanes, weights, values, width, c, out),
                    (true, false) => mix::<L, R, 1>(lanes, weights, values, width, c, out),
                    (false, true) => mix::<L, 1, C>(lanes, weights, values, width, c, out),
                    (false, false) => mix::<L, 1, 1>(lanes, weights, values, width, c, out),
                }
                c += if wide { C * LANES } else { LANES };
            }
            r += height;
        }
    }
}

/// Columns `column..` of one tile, `C` vectors wide.
#[inline(always)]
fn mix<L: Lanes, const R: usize, const C: usize>(
    lanes: L,
    weights: &[f32],
    values: &[f32],
    width: usize,
    column: usize,
    out: &mut [f32],
) {
    let keys = weights.len() / R;
    let mut sums = [[lanes.splat_float(0.0); C]; R];
    for r in 0..R {
        let row = out[r * width + column..][..C * LANES].as_chunks().0;
        for c in 0..C {
            sums[r][c] = lanes.load_floats(&row[c]);
        }
    }
    for j in 0..keys {
        let row = values[j * width + column..][..C * LANES].as_chunks().0;
        let mut vectors = [lanes.splat_float(0.0); C];
        for c in 0..C {
            vectors[c] = lanes.load_floats(&row[c]);
        }
        for r in 0..R {
            let weight = lanes.splat_float(weights[r * keys + j]);
            for c in 0..C {
                sums[r][c] = lanes.mul_add(weight, vectors[c], sums[r][c]);
            }
        }
    }
    for r in 0..R {
        let row = out[r * width + column..][..C * LANES].as_chunks_mut().0;
        for c in 0..C {
            lanes.store_floats(sums[r][c], &mut row[c]);
        }
    }
}
