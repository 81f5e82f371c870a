use treillage_gptq::GroupedLinear;

use super::layout::{Layout, Meaning};
use super::scales::LaneScales;
use super::simd::{BYTES, LANE_BYTES, LANES, Simd, Work};

/// Decodes the weights of some outputs, in the order of [`Exact`](super::input::Exact)'s activations and without the matrix's
/// factor.
pub(super) struct Panel<'a> {
    pub(super) linear: &'a GroupedLinear,
    pub(super) layout: Layout,
    /// The first output.
    pub(super) first: usize,
    /// `[outputs, padded inputs]`.
    pub(super) weights: &'a mut [f32],
}

impl Work for Panel<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.layout.per_byte {
            2 => self.decode::<S, 2>(simd),
            _ => self.decode::<S, 1>(simd),
        }
    }
}

impl Panel<'_> {
    #[inline(always)]
    fn decode<S: Simd, const H: usize>(self, simd: S) {
        let Self { linear, layout, .. } = self;
        let meaning = Meaning::of(linear.parts().element);
        let table = simd.table(&meaning.values);
        let bytes = linear.row_bytes();
        let mut scales = LaneScales::new(linear, &layout, 1);
        let rows = self.weights.chunks_exact_mut(layout.padded());
        for (output, weights) in (self.first..).zip(rows) {
            scales.fill(linear, &layout, &meaning, output..output + 1);
            let (scales, zeros) = scales.of(0);
            let (whole, rest) =
                linear.parts().codes[output * bytes..][..bytes].as_chunks::<BYTES>();
            let mut last = [0; BYTES];
            last[..rest.len()].copy_from_slice(rest);
            let (weights, _) = weights.as_chunks_mut::<LANES>();
            let (weights, _) = weights.as_chunks_mut::<LANE_BYTES>();
            let (weights, _) = weights.as_chunks_mut::<H>();
            for (chunk, weights) in weights.iter_mut().enumerate() {
                let codes = if chunk < whole.len() {
                    &whole[chunk]
                } else {
                    &last
                };
                let codes = simd.codes::<H>(codes, table);
                let at = chunk << layout.shift;
                let scales = spread(simd, &scales[at..], &layout);
                let shifts = match zeros {
                    Some(zeros) => simd.mul(spread(simd, &zeros[at..], &layout), scales),
                    None => simd.splat(0.0),
                };
                for h in 0..H {
                    for n in 0..LANE_BYTES {
                        let values = simd.values::<H>(codes, table, h, n);
                        simd.store(simd.mul_add(values, scales, shifts), &mut weights[h][n]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn spread<S: Simd>(simd: S, from: &[f32], layout: &Layout) -> S::Floats {
    let from = from.first_chunk().expect("a vector follows the last scale");
    simd.spread(from, layout.shift)
}
