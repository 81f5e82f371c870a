use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use treillage_linalg::hadamard::fwht;
use treillage_trellis::lanes::{Code, Mcg, Mul1, ThreeInst};
use treillage_trellis::{Codebook, PackedLinear, TILE};

use super::exact::Exact;
use super::input::{Form, Rotated, Rows, Singles};
use super::int8::Int8;
use super::tiles::Tiles;
use super::{BLOCK, BLOCK_TILES};

impl Rotated {
    /// The linear's output for tiles `tiles` along the output axis: overwrites `out`, `[rows, 16 tiles]`, with these columns
    /// of `x W + bias`.
    ///
    /// # Panics
    /// As [`Rotated::product`], and if `tiles` does not start and end at a multiple of 8, whole Hadamard blocks.
    pub fn multiply(&self, linear: &PackedLinear, tiles: Range<usize>, out: &mut [f32]) {
        let whole =
            tiles.start.is_multiple_of(BLOCK_TILES) && tiles.end.is_multiple_of(BLOCK_TILES);
        assert!(
            whole,
            "tiles {tiles:?} are not whole blocks of {BLOCK_TILES}"
        );
        self.product(linear, tiles.clone(), out);
        fwht(out, BLOCK);
        let columns = TILE * tiles.start..TILE * tiles.end;
        let mut factors = vec![0.0; columns.len()];
        linear.svh()[columns.clone()].convert_to_f32_slice(&mut factors);
        let rows = out.chunks_exact_mut(columns.len().max(1));
        for row in rows {
            for (y, factor) in row.iter_mut().zip(&factors) {
                *y *= factor;
            }
        }
        if let Some(bias) = linear.bias() {
            bias[columns.clone()].convert_to_f32_slice(&mut factors);
            for row in out.chunks_exact_mut(columns.len().max(1)) {
                for (y, bias) in row.iter_mut().zip(&factors) {
                    *y += bias;
                }
            }
        }
    }

    /// `x · What` for tiles `tiles` along the output axis, in the rotated basis: overwrites `out`, `[rows, 16 tiles]`.
    ///
    /// # Panics
    /// If `linear` has other input channels than the one these activations were made for, or another codebook than MUL1
    /// while they are quantized; if `tiles` reaches beyond the linear; if `out` has another length.
    pub fn product(&self, linear: &PackedLinear, tiles: Range<usize>, out: &mut [f32]) {
        assert_eq!(
            linear.in_features(),
            self.features(),
            "input channels of a packed linear"
        );
        assert!(
            tiles.end <= linear.shape()[1],
            "tiles {tiles:?} of {}",
            linear.shape()[1]
        );
        assert_eq!(
            out.len(),
            self.rows() * TILE * tiles.len(),
            "outputs of a packed linear"
        );
        if out.is_empty() {
            return;
        }
        match self.form() {
            Form::Exact(x) => match linear.codebook() {
                Codebook::ThreeInst => self.exact(x, linear, ThreeInst, tiles, out),
                Codebook::Mcg => self.exact(x, linear, Mcg, tiles, out),
                Codebook::Mul1 => self.exact(x, linear, Mul1, tiles, out),
            },
            Form::Bytes(x) => self.isa().run(self.int8(x, linear, tiles, out)),
            Form::Halves(x) => self.isa().run(self.int8(x, linear, tiles, out)),
        }
    }

    fn exact(
        &self,
        x: &Rows<Singles<f32>>,
        linear: &PackedLinear,
        code: impl Code,
        columns: Range<usize>,
        out: &mut [f32],
    ) {
        out.fill(0.0);
        let (tiles, bits, rows) = (Tiles::new(linear, columns), linear.bits(), self.rows());
        self.isa().run(Exact {
            tiles,
            bits,
            code,
            x,
            rows,
            out,
        });
    }

    fn int8<'a, B>(
        &self,
        x: &'a Rows<B>,
        linear: &'a PackedLinear,
        columns: Range<usize>,
        out: &'a mut [f32],
    ) -> Int8<'a, B> {
        assert_eq!(
            linear.codebook(),
            Codebook::Mul1,
            "the codebook of quantized activations"
        );
        for (row, &offset) in out.chunks_exact_mut(TILE * columns.len()).zip(&x.offsets) {
            row.fill(offset);
        }
        let (tiles, bits, rows) = (Tiles::new(linear, columns), linear.bits(), self.rows());
        Int8 {
            tiles,
            bits,
            x,
            rows,
            out,
        }
    }
}
