//! The search for the scale of least error, sixteen candidates at a time.

use std::array::from_fn;

use rayon::prelude::*;

use super::{grid::Grid, ladder::Ladder};
use crate::Error;

/// Candidates that are scored together: in a lane each, so that no sum runs over lanes.
pub(super) const LANES: usize = 16;

/// What scales are chosen for.
pub(super) struct Matrix<'a> {
    /// `[out, in]`, row-major, finite.
    pub(super) weights: &'a [f32],
    pub(super) in_features: usize,
    pub(super) group: usize,
    /// How much an input counts, `[in]`.
    pub(super) importance: Vec<f32>,
    /// Whether all count 1.
    pub(super) uniform: bool,
    /// Whether to look for less error than the scale of the largest magnitude gives.
    pub(super) search: bool,
}

/// The rung and the zero of each group.
pub(super) fn rungs<L: Ladder, G: Grid, const N: usize>(
    matrix: &Matrix<'_>,
    ladder: &L,
    grid: &G,
) -> Result<(Vec<u32>, Vec<u8>), Error> {
    let groups = matrix.in_features / matrix.group;
    let count = matrix.weights.len() / matrix.group;
    let (mut rungs, mut zeros) = (vec![0; count], vec![0; count]);
    let arch = pulp::Arch::new();
    (rungs.par_chunks_exact_mut(groups))
        .zip(zeros.par_chunks_exact_mut(groups))
        .zip(matrix.weights.par_chunks_exact(matrix.in_features))
        .try_for_each(|((rungs, zeros), weights)| {
            arch.dispatch(Row::<L, G, N> {
                matrix,
                ladder,
                grid,
                weights,
                rungs,
                zeros,
            })
        })?;
    Ok((rungs, zeros))
}

/// One output, whose loops are compiled for the vectors that this machine has. That changes no result: there is no sum
/// over lanes, and no product is fused with a sum.
struct Row<'a, L, G, const N: usize> {
    matrix: &'a Matrix<'a>,
    ladder: &'a L,
    grid: &'a G,
    weights: &'a [f32],
    rungs: &'a mut [u32],
    zeros: &'a mut [u8],
}

impl<L: Ladder, G: Grid, const N: usize> pulp::NullaryFnOnce for Row<'_, L, G, N> {
    type Output = Result<(), Error>;

    #[inline(always)]
    fn call(self) -> Result<(), Error> {
        let Matrix {
            group,
            search,
            uniform,
            ..
        } = *self.matrix;
        let groups =
            (self.weights.chunks_exact(group)).zip(self.matrix.importance.chunks_exact(group));
        for ((weights, importance), (rung, zero)) in
            groups.zip(self.rungs.iter_mut().zip(self.zeros))
        {
            let group = Group::new(weights, importance);
            let minmax = group.minmax(self.ladder, self.grid)?;
            let best = if search && group.low < group.high {
                group.search::<L, G, N>(self.ladder, self.grid, minmax, uniform)
            } else {
                minmax
            };
            // A code: the cast is exact.
            (*rung, *zero) = (best.rung, best.zero as u8);
        }
        Ok(())
    }
}

/// Weights that share a scale.
struct Group<'a> {
    weights: &'a [f32],
    importance: &'a [f32],
    /// The lowest, 0 among them.
    low: f32,
    /// The highest, 0 among them.
    high: f32,
}

/// A scale with its zero.
#[derive(Clone, Copy)]
struct Candidate {
    rung: u32,
    zero: f32,
    score: f32,
}

impl<'a> Group<'a> {
    #[inline(always)]
    fn new(weights: &'a [f32], importance: &'a [f32]) -> Self {
        // As integers, which ascend as the floats do: unlike those of floats, their minimum needs no order.
        let (mut low, mut high) = (0, 0);
        for weight in weights {
            let weight = ascending(weight.to_bits().cast_signed());
            low = low.min(weight);
            high = high.max(weight);
        }
        let value = |ascends: i32| f32::from_bits(ascending(ascends).cast_unsigned());
        Self {
            weights,
            importance,
            low: value(low),
            high: value(high),
        }
    }

    fn minmax<L: Ladder, G: Grid>(&self, ladder: &L, grid: &G) -> Result<Candidate, Error> {
        let (low, high) = (self.low, self.high);
        let rung = ladder.minmax(grid.ideal(low, high), high.max(-low))?;
        Ok(Candidate {
            rung,
            zero: grid.zero(low, high, ladder.value(rung), 0),
            score: f32::INFINITY,
        })
    }

    /// How much the lowest and the highest weight count.
    #[inline(always)]
    fn ends_count(&self, uniform: bool) -> [f32; 2] {
        if uniform {
            return [1.0; 2];
        }
        [self.low, self.high].map(|end| {
            let at = self.weights.iter().position(|&weight| weight == end);
            at.map_or(0.0, |at| self.importance[at])
        })
    }

    /// The best of the rungs around `minmax`, that one among them.
    #[inline(always)]
    fn search<L: Ladder, G: Grid, const N: usize>(
        &self,
        ladder: &L,
        grid: &G,
        minmax: Candidate,
        uniform: bool,
    ) -> Candidate {
        let span = ladder.span(minmax.rung);
        let counts = self.ends_count(uniform);
        let mut best = minmax;
        // Downwards, so that what is clipped tells early when to stop.
        let above = (span.end() - minmax.rung) / L::STEP;
        let mut top = Some(minmax.rung + above * L::STEP);
        while let Some(first) = top.filter(|top| top >= span.start()) {
            let mut rungs: [u32; N] = from_fn(|lane| {
                let down = (lane / G::ZEROS) as u32 * L::STEP;
                first.saturating_sub(down).max(*span.start())
            });
            let mut zeros: [f32; N] = from_fn(|lane| {
                let scale = ladder.value(rungs[lane]);
                grid.zero(self.low, self.high, scale, lane % G::ZEROS)
            });
            if let Some(at) = rungs.iter().position(|&rung| rung == minmax.rung) {
                // Among equals, such as where nothing counts, it is the one to take.
                rungs.swap(0, at);
                zeros.swap(0, at);
            }
            self.improve(ladder, grid, &rungs, &zeros, counts, &mut best);
            top = first.checked_sub((N / G::ZEROS) as u32 * L::STEP);
        }
        if L::STEP > 1 {
            // Between those tried: from a step below the best to a step above it.
            let fine = (L::STEP / 8).max(1);
            let lowest = best.rung.saturating_sub(8 * fine);
            let rungs =
                from_fn(|lane| (lowest + lane as u32 * fine).clamp(*span.start(), *span.end()));
            self.improve(ladder, grid, &rungs, &[best.zero; N], counts, &mut best);
        }
        best
    }

    /// Makes `best` the best of these if it is better, the first among equals.
    #[inline(always)]
    fn improve<L: Ladder, G: Grid, const N: usize>(
        &self,
        ladder: &L,
        grid: &G,
        rungs: &[u32; N],
        zeros: &[f32; N],
        counts: [f32; 2],
        best: &mut Candidate,
    ) {
        let scales = from_fn(|lane| ladder.value(rungs[lane]));
        let low = from_fn(|lane| grid.range(zeros[lane])[0]);
        let high = from_fn(|lane| grid.range(zeros[lane])[1]);
        if self.clips_too_much(&scales, &low, &high, counts, best.score) {
            return;
        }
        let scores = self.scores::<G, N>(&scales, &low, &high);
        let least = scores
            .iter()
            .fold(f32::INFINITY, |least, &score| least.min(score));
        if least < best.score {
            let lane = scores
                .iter()
                .position(|&score| score == least)
                .unwrap_or_default();
            *best = Candidate {
                rung: rungs[lane],
                zero: zeros[lane],
                score: least,
            };
        }
    }

    /// Whether what happens to the ends alone shows that no candidate is better than `score`: the ends' errors are
    /// terms of the sum, and a sum of terms that are not negative, rounded as it is, is no less than any of them.
    #[inline(always)]
    fn clips_too_much<const N: usize>(
        &self,
        scales: &[f32; N],
        low: &[f32; N],
        high: &[f32; N],
        counts: [f32; 2],
        score: f32,
    ) -> bool {
        let mut least = f32::INFINITY;
        for lane in 0..N {
            let below = (low[lane] * scales[lane] - self.low).max(0.0);
            let above = (self.high - high[lane] * scales[lane]).max(0.0);
            let error = (below * below * counts[0]).max(above * above * counts[1]);
            least = least.min(error);
        }
        least >= score
    }

    /// The error of each candidate.
    #[inline(always)]
    fn scores<G: Grid, const N: usize>(
        &self,
        scales: &[f32; N],
        low: &[f32; N],
        high: &[f32; N],
    ) -> [f32; N] {
        let inverses = scales.map(f32::recip);
        let mut sums = [0.0; N];
        for (&weight, &importance) in self.weights.iter().zip(self.importance) {
            for lane in 0..N {
                let value = G::round(weight * inverses[lane], low[lane], high[lane]);
                let error = weight - value * scales[lane];
                sums[lane] += error * error * importance;
            }
        }
        sums
    }
}

/// The bits of a float as an integer that ascends as floats do, and back.
#[inline(always)]
fn ascending(bits: i32) -> i32 {
    bits ^ ((bits >> 31) & i32::MAX)
}

#[cfg(test)]
mod tests {
    use pulp::NullaryFnOnce;

    use super::*;
    use crate::{
        IntBits, MxRule,
        scales::{
            grid::{Asymmetric, Floats, Symmetric},
            ladder::{Bf16, E4m3, E8m0, F16},
        },
    };

    /// Compares what the machine's vectors choose with what the target's own instructions do.
    fn compare<L: Ladder, G: Grid, const N: usize>(ladder: &L, grid: &G, group: usize) {
        let weights: Vec<f32> = (0..1024u32)
            .map(|i| i.wrapping_mul(2_654_435_761).cast_signed() as f32 * 2f32.powi(-32))
            .map(|x| x * x * x)
            .collect();
        for uniform in [true, false] {
            let count = |i: usize| if uniform { 1.0 } else { (i % 7) as f32 };
            let matrix = Matrix {
                weights: &weights,
                in_features: weights.len(),
                group,
                importance: (0..weights.len()).map(count).collect(),
                uniform,
                search: true,
            };
            let (mut rungs, mut zeros) = (vec![0; 1024 / group], vec![0; 1024 / group]);
            let row = Row::<L, G, N> {
                matrix: &matrix,
                ladder,
                grid,
                weights: &weights,
                rungs: &mut rungs,
                zeros: &mut zeros,
            };
            row.call().unwrap();
            let chosen = super::rungs::<L, G, N>(&matrix, ladder, grid).unwrap();
            assert_eq!(chosen, (rungs, zeros));
        }
    }

    #[test]
    fn vectors_change_no_scale() {
        compare::<_, _, LANES>(&F16, &Symmetric(IntBits::Four), 128);
        compare::<_, _, LANES>(&F16, &Asymmetric(IntBits::Three), 32);
        compare::<_, _, LANES>(&Bf16, &Floats, 64);
        compare::<_, _, LANES>(&E4m3::new(3000.0, true), &Floats, 16);
        let ladder = E8m0 { rule: MxRule::Ocp };
        compare::<_, _, 4>(&ladder, &Floats, 32);
    }
}
