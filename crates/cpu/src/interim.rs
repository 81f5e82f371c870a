//! Packed linears until their kernels are there: decoded when loaded.

use std::sync::Arc;

use treillage_linalg::hadamard::fwht;
use treillage_trellis::PackedLinear;

use crate::dots::dots;

pub(crate) struct Packed {
    packed: Arc<PackedLinear>,
    /// `[out, in]`, rotated basis.
    inner: Vec<f32>,
}

impl Packed {
    pub(crate) fn new(packed: Arc<PackedLinear>) -> Self {
        let [tiles_in, tiles_out, per_tile] = packed.shape();
        let (k, bits) = (packed.in_features(), packed.bits().get());
        let mut inner = vec![0.0; k * packed.out_features()];
        let stream_len = 256 * bits;
        for a in 0..tiles_in {
            for b in 0..tiles_out {
                let words = &packed.words()[(a * tiles_out + b) * per_tile..][..per_tile];
                for i in 0..256 {
                    let mut state = 0u16;
                    for bit in 0..16 {
                        let at = ((i + 1) * bits + stream_len - 16 + bit) % stream_len;
                        let word = words[(at / 16) ^ 1];
                        state = state << 1 | (word >> (15 - at % 16)) & 1;
                    }
                    let (t, j) = (i / 8, i % 8);
                    let row = 2 * (t % 4) + (j & 1) + 8 * ((j >> 1) & 1);
                    let col = t / 4 + 8 * (j >> 2);
                    let value = packed.codebook().table()[usize::from(state)];
                    inner[(16 * b + col) * k + 16 * a + row] = value;
                }
            }
        }
        Self { packed, inner }
    }

    pub(crate) fn packed(&self) -> &PackedLinear {
        &self.packed
    }

    /// One row, scaled and rotated.
    pub(crate) fn rotate(&self, x: &[f32], out: &mut [f32]) {
        for (i, value) in x.iter().enumerate() {
            out[i] = value * self.packed.suh()[i].to_f32();
        }
        out[x.len()..].fill(0.0);
        fwht(out, 128);
    }

    /// Columns of one block for all rows.
    pub(crate) fn multiply(&self, rotated: &[f32], first: usize, out: &mut [f32]) {
        let k = self.packed.in_features();
        dots(rotated, &self.inner[first * k..][..128 * k], k, out);
        for row in out.chunks_exact_mut(128) {
            fwht(row, 128);
            for (i, value) in row.iter_mut().enumerate() {
                *value *= self.packed.svh()[first + i].to_f32();
                if let Some(bias) = self.packed.bias() {
                    *value += bias[first + i].to_f32();
                }
            }
        }
    }
}
