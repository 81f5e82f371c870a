use std::ops::Range;

use treillage_gptq::GroupedLinear;

use super::layout::{Layout, Meaning};
use super::scales::LaneScales;
use super::simd::{BYTES, Simd, Work};

/// Outputs whose scales are decoded at a time.
const OUTPUTS: usize = 4;

/// Codes are asked for at least so many bytes before they are wanted: a page, which is what hardware looks ahead.
const AHEAD: usize = 4096;

/// Products of a few rows with codes that are decoded for each of them, or for a few at once: overwrites `out`.
pub(super) struct Few<'a, X, const H: usize> {
    pub(super) linear: &'a GroupedLinear,
    pub(super) layout: Layout,
    pub(super) x: &'a X,
    pub(super) rows: usize,
    pub(super) outputs: Range<usize>,
    /// `[rows, outputs]`.
    pub(super) out: &'a mut [f32],
}

/// The weights of one output.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    codes: &'a [[u8; BYTES]],
    /// What fills no vector.
    rest: &'a [u8],
    pub(super) scales: &'a [f32],
    pub(super) zeros: Option<&'a [f32]>,
}

/// Rows of activations that can be multiplied with codes of `H` to a byte.
pub(super) trait Rows<const H: usize> {
    /// What codes are looked up in.
    type Table<S: Simd>: Copy;

    fn table<S: Simd>(simd: S, meaning: &Meaning) -> Self::Table<S>;

    /// Adds to `sums`, of `R` rows from `row` on and `O` outputs, the products of chunk `chunk`, whose codes are `codes`.
    fn add<S: Simd, const R: usize, const O: usize>(
        &self,
        simd: S,
        table: Self::Table<S>,
        place: Place<'_, O>,
        row: usize,
        codes: [&[u8; BYTES]; O],
        sums: &mut [[S::Floats; O]; R],
    );
}

/// A chunk of the weights of `O` outputs.
#[derive(Clone, Copy)]
pub(super) struct Place<'a, const O: usize> {
    pub(super) layout: &'a Layout,
    pub(super) chunk: usize,
    pub(super) weights: &'a [Weights<'a>; O],
}

impl<const O: usize> Place<'_, O> {
    /// The scales of the lanes of output `o`.
    #[inline(always)]
    pub(super) fn scales<S: Simd>(&self, simd: S, o: usize) -> S::Floats {
        self.spread(simd, self.weights[o].scales)
    }

    /// What values of the lanes of output `o` are too small by, if its linear is asymmetric.
    #[inline(always)]
    pub(super) fn zeros<S: Simd>(&self, simd: S, o: usize) -> Option<S::Floats> {
        let zeros = self.weights[o].zeros?;
        Some(self.spread(simd, zeros))
    }

    #[inline(always)]
    fn spread<S: Simd>(&self, simd: S, from: &[f32]) -> S::Floats {
        let from = from[self.chunk << self.layout.shift..]
            .first_chunk()
            .expect("a vector follows the last scale");
        simd.spread(from, self.layout.shift)
    }
}

impl<X: Rows<H>, const H: usize> Work for Few<'_, X, H> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let meaning = Meaning::of(self.linear.parts().element);
        let table = X::table(simd, &meaning);
        let mut scales = LaneScales::new(self.linear, &self.layout, OUTPUTS);
        let mut first = self.outputs.start;
        while first < self.outputs.end {
            let count = OUTPUTS.min(self.outputs.end - first);
            scales.fill(self.linear, &self.layout, &meaning, first..first + count);
            let mut row = 0;
            while row < self.rows {
                let left = self.rows - row;
                let at = (first, row);
                row += if S::ROWS >= 4 && left >= 4 {
                    self.tiles::<S, 4, 2>(simd, table, &scales, at, count)
                } else if S::ROWS >= 2 && left >= 2 {
                    if S::OUTPUTS >= 4 {
                        self.tiles::<S, 2, 4>(simd, table, &scales, at, count)
                    } else {
                        self.tiles::<S, 2, 1>(simd, table, &scales, at, count)
                    }
                } else {
                    // One row waits for memory: one stream of codes comes faster than several.
                    self.tiles::<S, 1, 1>(simd, table, &scales, at, count)
                };
            }
            first += count;
        }
    }
}

impl<X: Rows<H>, const H: usize> Few<'_, X, H> {
    /// The products of `R` rows from `row` on with `count` outputs from `first` on, `O` at a time. Gives `R`.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const O: usize>(
        &mut self,
        simd: S,
        table: X::Table<S>,
        scales: &LaneScales,
        (first, row): (usize, usize),
        count: usize,
    ) -> usize {
        let mut i = 0;
        while i + O <= count {
            self.tile::<S, R, O>(simd, table, scales, i, (first + i, row));
            i += O;
        }
        while i < count {
            self.tile::<S, R, 1>(simd, table, scales, i, (first + i, row));
            i += 1;
        }
        R
    }

    /// The products of `R` rows from `row` on with `O` outputs from `output` on, whose scales are number `i` and on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const O: usize>(
        &mut self,
        simd: S,
        table: X::Table<S>,
        scales: &LaneScales,
        i: usize,
        (output, row): (usize, usize),
    ) {
        let (scales_of, zeros) = scales.of(i);
        let mut weights = [self.weights(output, scales_of, zeros); O];
        for o in 1..O {
            let (scales, zeros) = scales.of(i + o);
            weights[o] = self.weights(output + o, scales, zeros);
        }
        let mut sums = [[simd.splat(0.0); O]; R];
        let whole = weights[0].codes.len();
        let mut codes = [&[0; BYTES]; O];
        let mut place = Place {
            layout: &self.layout,
            chunk: 0,
            weights: &weights,
        };
        let tile = O * self.linear.row_bytes();
        let ahead = tile * AHEAD.div_ceil(tile);
        for chunk in 0..whole {
            place.chunk = chunk;
            for o in 0..O {
                codes[o] = &weights[o].codes[chunk];
                prefetch(codes[o], ahead);
            }
            self.x.add(simd, table, place, row, codes, &mut sums);
        }
        if whole < self.layout.chunks {
            let mut last = [[0; BYTES]; O];
            for o in 0..O {
                last[o][..weights[o].rest.len()].copy_from_slice(weights[o].rest);
            }
            for o in 0..O {
                codes[o] = &last[o];
            }
            place.chunk = whole;
            self.x.add(simd, table, place, row, codes, &mut sums);
        }
        let stride = self.outputs.len();
        let first = row * stride + output - self.outputs.start;
        for r in 0..R {
            for o in 0..O {
                self.out[first + r * stride + o] = simd.sum(sums[r][o]);
            }
        }
    }

    #[inline(always)]
    fn weights<'b>(&self, output: usize, scales: &'b [f32], zeros: Option<&'b [f32]>) -> Weights<'b>
    where
        Self: 'b,
    {
        let bytes = self.linear.row_bytes();
        let row = &self.linear.parts().codes[output * bytes..][..bytes];
        let (codes, rest) = row.as_chunks();
        Weights {
            codes,
            rest,
            scales,
            zeros,
        }
    }
}

/// Asks for the codes that follow some by `ahead` bytes.
#[inline(always)]
fn prefetch(codes: &[u8; BYTES], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = codes.as_ptr().wrapping_add(ahead);
        // SAFETY: a prefetch reads nothing, wherever it points; SSE is part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (codes, ahead);
}
