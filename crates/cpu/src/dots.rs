//! Products of activations with rows of weights: `out[r][o] = x_r · w_o`.

use crate::simd::{Element, Kernel, LANES, Simd, dispatch};

/// Rows of activations that are multiplied with a block of weights before the next block: they stay in the L2 cache.
const PANEL: usize = 64;

/// Overwrites `out`, row-major `[rows, outputs]`, with the products of the rows of `x` and of `weights`, both
/// row-major and `width` wide.
///
/// A product's value does not depend on the other rows: one token's are the same bits in a batch of any size.
pub(crate) fn dots<T: Element>(x: &[f32], weights: &[T], width: usize, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    let outputs = weights.len() / width;
    for (x, out) in x.chunks(PANEL * width).zip(out.chunks_mut(PANEL * outputs)) {
        dispatch(Dots {
            x,
            weights,
            width,
            out,
        });
    }
}

struct Dots<'a, T> {
    x: &'a [f32],
    weights: &'a [T],
    width: usize,
    out: &'a mut [f32],
}

impl<T: Element> Kernel for Dots<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if self.x.len() < 2 * self.width {
            if S::MANY_REGISTERS {
                self.tiles::<S, 1, 8>(simd);
            } else {
                self.tiles::<S, 1, 4>(simd);
            }
        } else if S::MANY_REGISTERS {
            self.tiles::<S, 4, 4>(simd);
        } else {
            self.tiles::<S, 2, 2>(simd);
        }
    }
}

impl<T: Element> Dots<'_, T> {
    /// All products, in tiles of `R` rows and `O` outputs.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize, const O: usize>(self, simd: S) {
        let Dots {
            x,
            weights,
            width,
            out,
        } = self;
        let (rows, outputs) = (x.len() / width, weights.len() / width);
        let mut o = 0;
        while o < outputs {
            let step = if o + O <= outputs { O } else { 1 };
            let block = &weights[o * width..][..step * width];
            let mut r = 0;
            while r < rows {
                let height = if r + R <= rows { R } else { 1 };
                let x = &x[r * width..][..height * width];
                let out = &mut out[r * outputs + o..];
                match (height == R, step == O) {
                    (true, true) => tile::<S, T, R, O>(simd, x, block, width, out, outputs),
                    (true, false) => tile::<S, T, R, 1>(simd, x, block, width, out, outputs),
                    (false, true) => tile::<S, T, 1, O>(simd, x, block, width, out, outputs),
                    (false, false) => tile::<S, T, 1, 1>(simd, x, block, width, out, outputs),
                }
                r += height;
            }
            o += step;
        }
    }
}

/// Products of `R` rows of `x` and `O` rows of `w`, each summed lane by lane and then across lanes.
#[inline(always)]
fn tile<S: Simd, T: Element, const R: usize, const O: usize>(
    simd: S,
    x: &[f32],
    w: &[T],
    width: usize,
    out: &mut [f32],
    stride: usize,
) {
    let chunks = width / LANES;
    let mut xs: [&[[f32; LANES]]; R] = [&[]; R];
    let mut ws: [&[[T; LANES]]; O] = [&[]; O];
    for r in 0..R {
        xs[r] = &x[r * width..][..width].as_chunks().0[..chunks];
    }
    for o in 0..O {
        ws[o] = &w[o * width..][..width].as_chunks().0[..chunks];
    }
    let mut sums = [[simd.splat(0.0); O]; R];
    for i in 0..chunks {
        let mut weights = [simd.splat(0.0); O];
        for o in 0..O {
            weights[o] = T::load(simd, &ws[o][i]);
        }
        for r in 0..R {
            let x = simd.load(&xs[r][i]);
            for o in 0..O {
                sums[r][o] = simd.mul_add(x, weights[o], sums[r][o]);
            }
        }
    }
    let rest = chunks * LANES;
    if rest < width {
        for r in 0..R {
            let x = simd.load(&padded(&x[r * width..][rest..width]));
            for o in 0..O {
                let w = T::load(simd, &padded(&w[o * width..][rest..width]));
                sums[r][o] = simd.mul_add(x, w, sums[r][o]);
            }
        }
    }
    for r in 0..R {
        for o in 0..O {
            out[r * stride + o] = simd.sum(sums[r][o]);
        }
    }
}

/// Fewer than sixteen values, with zeros behind them.
#[inline(always)]
fn padded<T: Copy + Default>(values: &[T]) -> [T; LANES] {
    let mut padded = [T::default(); LANES];
    padded[..values.len()].copy_from_slice(values);
    padded
}
