//! The matrix product of attention, for scores and for values.

use treillage_trellis::lanes::{Kernel, LANES, Lanes};

/// `out += a · b`, all row-major.
pub(super) struct Product<'a> {
    /// `[rows, inner]`, rows `stride` apart.
    pub(super) a: &'a [f32],
    pub(super) stride: usize,
    pub(super) inner: usize,
    /// `[inner, cols]`.
    pub(super) b: &'a [f32],
    /// `[rows, cols]`.
    pub(super) out: &'a mut [f32],
    /// A multiple of sixteen.
    pub(super) cols: usize,
}

impl Kernel for Product<'_> {
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

impl Product<'_> {
    /// Tiles of `R` rows and `C` vectors, with single ones at the edges.
    #[inline(always)]
    fn tiles<L: Lanes, const R: usize, const C: usize>(mut self, lanes: L) {
        let rows = self.out.len() / self.cols;
        let mut row = 0;
        while row < rows {
            row += if rows - row >= R {
                self.row_of_tiles::<L, R, C>(lanes, row)
            } else {
                self.row_of_tiles::<L, 1, C>(lanes, row)
            };
        }
    }

    #[inline(always)]
    fn row_of_tiles<L: Lanes, const R: usize, const C: usize>(
        &mut self,
        lanes: L,
        row: usize,
    ) -> usize {
        let mut column = 0;
        while column < self.cols {
            column += if self.cols - column >= C * LANES {
                self.tile::<L, R, C>(lanes, row, column)
            } else {
                self.tile::<L, R, 1>(lanes, row, column)
            };
        }
        R
    }

    /// One tile; gives its width.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const C: usize>(
        &mut self,
        lanes: L,
        row: usize,
        column: usize,
    ) -> usize {
        let cols = self.cols;
        let mut sums = [[lanes.splat_float(0.0); C]; R];
        for r in 0..R {
            let out = vectors::<C>(&self.out[(row + r) * cols + column..]);
            for c in 0..C {
                sums[r][c] = lanes.load_floats(&out[c]);
            }
        }
        let mut factors: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            factors[r] = &self.a[(row + r) * self.stride..][..self.inner];
        }
        for (i, b) in self.b.chunks_exact(cols).take(self.inner).enumerate() {
            let b = vectors::<C>(&b[column..]);
            let mut loaded = [lanes.splat_float(0.0); C];
            for c in 0..C {
                loaded[c] = lanes.load_floats(&b[c]);
            }
            for r in 0..R {
                let factor = lanes.splat_float(factors[r][i]);
                for c in 0..C {
                    sums[r][c] = lanes.mul_add(factor, loaded[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            let (out, _) = self.out[(row + r) * cols + column..].as_chunks_mut();
            for (out, sum) in out.iter_mut().zip(sums[r]) {
                lanes.store_floats(sum, out);
            }
        }
        C * LANES
    }
}

/// The first `C` vectors of `values`.
#[inline(always)]
fn vectors<const C: usize>(values: &[f32]) -> &[[f32; LANES]; C] {
    let (vectors, _) = values.as_chunks();
    let (first, _) = vectors.as_chunks();
    &first[0]
}

#[cfg(test)]
mod tests {
    use treillage_trellis::lanes::Isa;

    use super::*;

    #[test]
    fn products_are_sums_of_products() {
        let number = |i: usize| ((i * 2_654_435_761) % 1001) as f32 / 500.0 - 1.0;
        for (rows, inner, cols) in [(1, 1, 16), (4, 7, 64), (9, 33, 80), (2, 5, 144)] {
            let stride = inner + 3;
            let a: Vec<f32> = (0..rows * stride).map(number).collect();
            let b: Vec<f32> = (0..inner * cols).map(|i| number(i + 77)).collect();
            for isa in Isa::available() {
                let mut out = vec![0.5; rows * cols];
                isa.run(Product {
                    a: &a,
                    stride,
                    inner,
                    b: &b,
                    out: &mut out,
                    cols,
                });
                for (i, found) in out.iter().enumerate() {
                    let (row, column) = (i / cols, i % cols);
                    let products = (0..inner).map(|j| a[row * stride + j] * b[j * cols + column]);
                    let expected = 0.5 + products.sum::<f32>();
                    assert!((found - expected).abs() < 1e-5, "{:?}", isa.level());
                }
            }
        }
    }
}
