//! Products of activations with rows of weights: `out[r][o] = x_r · w_o`.

use half::{bf16, f16};
use treillage_linalg::{Parallelism, View, ViewMut, gemm};
use treillage_trellis::lanes::{Isa, Kernel, LANES, Lanes};

/// Up to this many rows weights are widened as they are multiplied; more are worth a matrix product of widened ones.
pub(crate) const FEW_ROWS: usize = 16;

/// A type that weights are stored in.
pub(crate) trait Element: Copy + Default {
    /// The same number, exactly. Without branches and calls, so that loops over it vectorise inside a kernel.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        /// What the bias of the exponent grows by.
        const REBIAS: u32 = (127 - 15) << 23;
        let sign = u32::from(self.to_bits() & 0x8000) << 16;
        let magnitude = u32::from(self.to_bits() & 0x7FFF) << 13;
        let normal = magnitude + REBIAS;
        // Infinities and NaNs keep the largest exponent.
        let large = normal + REBIAS;
        // A significand without its leading one: put one there, and take it off again.
        let one = REBIAS + (1 << 23);
        let small = (f32::from_bits(magnitude + one) - f32::from_bits(one)).to_bits();
        let bits = if magnitude < 1 << 23 {
            small
        } else if magnitude < 31 << 23 {
            normal
        } else {
            large
        };
        f32::from_bits(bits | sign)
    }
}

/// Overwrites `out`, row-major `[rows, outputs]`, with the products of the rows of `x` and of `weights`, both
/// row-major and `width` wide.
pub(crate) fn dots<T: Element>(isa: Isa, x: &[f32], weights: &[T], width: usize, out: &mut [f32]) {
    if x.len() <= FEW_ROWS * width {
        let stride = weights.len() / width;
        isa.run(Dots {
            x,
            weights,
            width,
            out,
            stride,
        });
    } else {
        let mut wide = vec![0.0; weights.len()];
        isa.run(Widen {
            weights,
            to: &mut wide,
        });
        many_dots(x, &wide, width, out);
    }
}

/// [`dots`] of many rows and weights in f32.
pub(crate) fn many_dots(x: &[f32], weights: &[f32], width: usize, out: &mut [f32]) {
    let (rows, outputs) = (x.len() / width, weights.len() / width);
    let x = View::row_major(x, rows, width);
    let weights = View::row_major(weights, outputs, width).transpose();
    let out = ViewMut::row_major(out, rows, outputs);
    gemm(1.0, x, weights, 0.0, out, Parallelism::Sequential);
}

/// Copies weights as f32.
struct Widen<'a, T> {
    weights: &'a [T],
    to: &'a mut [f32],
}

impl<T: Element> Kernel for Widen<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for (to, weight) in self.to.iter_mut().zip(self.weights) {
            *to = weight.widen();
        }
    }
}

struct Dots<'a, T> {
    x: &'a [f32],
    weights: &'a [T],
    width: usize,
    out: &'a mut [f32],
    /// Outputs of a row.
    stride: usize,
}

impl<T: Element> Dots<'_, T> {
    /// The products of `R` rows from `row` on, `O` outputs at a time. Gives `R`.
    #[inline(always)]
    fn rows<L: Lanes, const R: usize, const O: usize>(&mut self, lanes: L, row: usize) -> usize {
        let (width, stride) = (self.width, self.stride);
        let x = &self.x[row * width..][..R * width];
        let mut out = &mut self.out[row * stride..];
        let mut weights = self.weights;
        while weights.len() >= O * width {
            let block;
            (block, weights) = weights.split_at(O * width);
            tile::<L, T, R, O>(lanes, x, block, width, out, stride);
            out = &mut out[O..];
        }
        while !weights.is_empty() {
            let block;
            (block, weights) = weights.split_at(width);
            tile::<L, T, R, 1>(lanes, x, block, width, out, stride);
            out = &mut out[1..];
        }
        R
    }
}

impl<T: Element> Kernel for Dots<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let rows = self.x.len() / self.width;
        let mut row = 0;
        while row < rows {
            let left = rows - row;
            row += if L::ROWS >= 4 && left >= 4 {
                self.rows::<L, 4, 4>(lanes, row)
            } else if L::ROWS >= 2 && left >= 2 {
                self.rows::<L, 2, 4>(lanes, row)
            } else if L::ROWS >= 4 {
                self.rows::<L, 1, 8>(lanes, row)
            } else {
                self.rows::<L, 1, 4>(lanes, row)
            };
        }
    }
}

/// The products of `R` rows of `x` and `O` of weights, each added up lane by lane and then across the lanes.
#[inline(always)]
fn tile<L: Lanes, T: Element, const R: usize, const O: usize>(
    lanes: L,
    x: &[f32],
    weights: &[T],
    width: usize,
    out: &mut [f32],
    stride: usize,
) {
    let whole = width / LANES;
    let mut sums = [[lanes.splat_float(0.0); O]; R];
    let mut xs: [&[[f32; LANES]]; R] = [&[]; R];
    let mut ws: [&[[T; LANES]]; O] = [&[]; O];
    for r in 0..R {
        xs[r] = &x[r * width..][..width].as_chunks().0[..whole];
    }
    for o in 0..O {
        ws[o] = &weights[o * width..][..width].as_chunks().0[..whole];
    }
    for i in 0..whole {
        let mut weights = [lanes.splat_float(0.0); O];
        for o in 0..O {
            weights[o] = load(lanes, &ws[o][i]);
        }
        for r in 0..R {
            let x = lanes.load_floats(&xs[r][i]);
            for o in 0..O {
                sums[r][o] = lanes.mul_add(x, weights[o], sums[r][o]);
            }
        }
    }
    if whole * LANES < width {
        for r in 0..R {
            let x = lanes.load_floats(&last(&x[r * width..][..width]));
            for o in 0..O {
                let weights = load(lanes, &last(&weights[o * width..][..width]));
                sums[r][o] = lanes.mul_add(x, weights, sums[r][o]);
            }
        }
    }
    for r in 0..R {
        let mut o = 0;
        while o < O {
            let mut four = [lanes.splat_float(0.0); 4];
            let count = if O - o < 4 { O - o } else { 4 };
            four[..count].copy_from_slice(&sums[r][o..o + count]);
            out[r * stride + o..][..count].copy_from_slice(&across(lanes, four)[..count]);
            o += 4;
        }
    }
}

#[inline(always)]
fn load<L: Lanes, T: Element>(lanes: L, weights: &[T; LANES]) -> L::Floats {
    let mut wide = [0.0; LANES];
    for (wide, weight) in wide.iter_mut().zip(weights) {
        *wide = weight.widen();
    }
    lanes.load_floats(&wide)
}

/// What does not fill a vector, with zeros behind it.
#[inline(always)]
fn last<T: Element>(row: &[T]) -> [T; LANES] {
    let (_, rest) = row.as_chunks::<LANES>();
    let mut last = [T::default(); LANES];
    last[..rest.len()].copy_from_slice(rest);
    last
}

/// The sum of the lanes of each vector.
#[inline(always)]
fn across<L: Lanes>(lanes: L, vectors: [L::Floats; 4]) -> [f32; 4] {
    // Folded as the columns of a tile, of which each vector holds four.
    let mut sums = [0.0; LANES];
    lanes.store_floats(lanes.fold_floats(vectors), &mut sums);
    let mut across = [0.0; 4];
    for v in 0..4 {
        let column = 2 * v;
        across[v] = (sums[column] + sums[column + 1]) + (sums[column + 8] + sums[column + 9]);
    }
    across
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32)
            .map(|i| ((i + seed).wrapping_mul(2_654_435_761) >> 16) as f32 / 32_768.0 - 1.0)
            .collect()
    }

    fn check<T: Element>(isa: Isa, x: &[f32], weights: &[T], kept: &[f32], width: usize) {
        let (rows, outputs) = (x.len() / width, kept.len() / width);
        let mut out = vec![f32::NAN; rows * outputs];
        dots(isa, x, weights, width, &mut out);
        for (r, x) in x.chunks_exact(width).enumerate() {
            for (o, weights) in kept.chunks_exact(width).enumerate() {
                let products = x
                    .iter()
                    .zip(weights)
                    .map(|(&x, &w)| f64::from(x) * f64::from(w));
                let expected: f64 = products.sum();
                let error = (f64::from(out[r * outputs + o]) - expected).abs();
                assert!(
                    error <= 1e-6 * width as f64,
                    "{:?} row {r} output {o}",
                    isa.level()
                );
            }
        }
    }

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            for (wide, expected) in [
                (half.widen(), half.to_f32()),
                (brain.widen(), brain.to_f32()),
            ] {
                assert!(
                    wide == expected || wide.is_nan() && expected.is_nan(),
                    "{bits:04x}"
                );
                assert_eq!(wide.is_sign_negative(), expected.is_sign_negative());
            }
        }
    }

    proptest! {
        #[test]
        fn dots_are_sums_of_products(rows in 1usize..21, outputs in 1usize..40, width in 1usize..150) {
            let (x, w) = (values(rows * width, 1), values(outputs * width, 2));
            let halves: Vec<f16> = w.iter().map(|&w| f16::from_f32(w)).collect();
            let brains: Vec<bf16> = w.iter().map(|&w| bf16::from_f32(w)).collect();
            let kept = |half: &dyn Fn(usize) -> f32| -> Vec<f32> { (0..w.len()).map(half).collect() };
            for isa in Isa::available() {
                check(isa, &x, &w, &w, width);
                check(isa, &x, &halves, &kept(&|i| halves[i].to_f32()), width);
                check(isa, &x, &brains, &kept(&|i| brains[i].to_f32()), width);
            }
        }
    }
}
