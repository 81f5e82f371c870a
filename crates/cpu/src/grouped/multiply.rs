use std::ops::Range;

use treillage_gptq::GroupedLinear;
use treillage_trellis::SimdLevel;

use super::few::{Few, Rows};
use super::input::{Arranged, Exact, Form};
use super::layout::Layout;
use super::panel::Panel;
use super::scales::global;
use super::simd;
use crate::dots::{FEW_ROWS, dots, many_dots};

/// Outputs that are decoded at a time where that is worth it.
const PANEL: usize = 32;

impl Arranged {
    /// The linear's outputs `outputs`: overwrites `out`, `[rows, outputs]`, with them.
    ///
    /// # Panics
    /// If `linear` has another width, other codes, or groups of another kind than the one that these activations were made for,
    /// if `outputs` reaches beyond it, or if `out` has another length. Another order or rotation is not noticed: see
    /// [`Arranged::serves_both`].
    pub fn multiply(&self, linear: &GroupedLinear, outputs: Range<usize>, out: &mut [f32]) {
        assert_eq!(
            linear.in_features(),
            self.features,
            "input features of a grouped linear"
        );
        let layout = Layout::of(linear);
        assert!(
            (linear.parts().element, layout.is_some()) == (self.element, self.in_lanes()),
            "activations were arranged for a linear of another layout"
        );
        assert!(
            outputs.end <= linear.out_features(),
            "outputs {outputs:?} of {}",
            linear.out_features()
        );
        assert_eq!(
            out.len(),
            self.rows * outputs.len(),
            "outputs of a grouped linear"
        );
        if out.is_empty() {
            return;
        }
        match (&self.form, layout) {
            (Form::Plain(x), None) => {
                // Weights come with the matrix's factor.
                self.plain(linear, x, outputs.clone(), out);
                return add_bias(linear, outputs, out);
            }
            (Form::Exact(x), Some(layout)) if self.rows > self.most_few_rows() => {
                self.panels(linear, layout, x, outputs.clone(), out);
            }
            (Form::Exact(x), Some(layout)) if layout.per_byte == 2 => {
                self.few::<Exact, 2>(linear, layout, x, outputs.clone(), out);
            }
            (Form::Exact(x), Some(layout)) => {
                self.few::<Exact, 1>(linear, layout, x, outputs.clone(), out);
            }
            (Form::Nibbles(x), Some(layout)) if layout.per_byte == 2 => {
                self.few(linear, layout, x, outputs.clone(), out);
            }
            (Form::Bytes(x), Some(layout)) if layout.per_byte == 1 => {
                self.few(linear, layout, x, outputs.clone(), out);
            }
            _ => unreachable!("linears of one element are laid out alike, in lanes or not"),
        }
        let global = global(&linear.parts().scales);
        if global != 1.0 {
            for y in out.iter_mut() {
                *y /= global;
            }
        }
        add_bias(linear, outputs, out);
    }

    fn few<X: Rows<H>, const H: usize>(
        &self,
        linear: &GroupedLinear,
        layout: Layout,
        x: &X,
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        let work = Few {
            linear,
            layout,
            x,
            rows: self.rows,
            outputs,
            out,
        };
        simd::run(self.isa, work);
    }

    fn panels(
        &self,
        linear: &GroupedLinear,
        layout: Layout,
        x: &Exact,
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        let x: &[f32] = bytemuck::cast_slice(&x.values);
        in_panels(layout.padded(), outputs, out, |first, weights, products| {
            let work = Panel {
                linear,
                layout,
                first,
                weights,
            };
            simd::run(self.isa, work);
            if self.rows > FEW_ROWS {
                many_dots(x, weights, layout.padded(), products);
            } else {
                dots(self.isa, x, weights, layout.padded(), products);
            }
        });
    }

    /// Up to this many rows codes are decoded as they are multiplied.
    fn most_few_rows(&self) -> usize {
        match self.isa.level() {
            // There are no registers for several rows: codes would be decoded for each of them anew.
            SimdLevel::Portable => 1,
            SimdLevel::Avx2 | SimdLevel::Avx512 => FEW_ROWS,
        }
    }

    /// Groups that are not whole lanes: rare, and decoded one code after another.
    fn plain(&self, linear: &GroupedLinear, x: &[f32], outputs: Range<usize>, out: &mut [f32]) {
        let width = self.features;
        in_panels(width, outputs, out, |first, weights, products| {
            for (output, weights) in (first..).zip(weights.chunks_exact_mut(width)) {
                linear.decode_row(output, weights);
            }
            dots(self.isa, x, weights, width, products);
        });
    }
}

/// Calls `fill(first output, weights, products)` for a panel of outputs after another: it decodes into `weights`, `[outputs,
/// width]`, and writes `products`, `[rows, outputs]`, which end up in `out`.
fn in_panels(
    width: usize,
    outputs: Range<usize>,
    out: &mut [f32],
    mut fill: impl FnMut(usize, &mut [f32], &mut [f32]),
) {
    let (count, rows) = (outputs.len(), out.len() / outputs.len());
    let panel = PANEL.min(count);
    let mut weights = vec![0.0; panel * width];
    let mut products = vec![0.0; panel * rows];
    for at in (0..count).step_by(panel) {
        let panel = panel.min(count - at);
        let products = &mut products[..rows * panel];
        fill(outputs.start + at, &mut weights[..panel * width], products);
        for (out, products) in out
            .chunks_exact_mut(count)
            .zip(products.chunks_exact(panel))
        {
            out[at..at + panel].copy_from_slice(products);
        }
    }
}

fn add_bias(linear: &GroupedLinear, outputs: Range<usize>, out: &mut [f32]) {
    if let Some(bias) = &linear.parts().bias {
        for row in out.chunks_exact_mut(outputs.len()) {
            for (y, bias) in row.iter_mut().zip(&bias[outputs.clone()]) {
                *y += bias;
            }
        }
    }
}
