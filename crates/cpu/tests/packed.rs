//! Products of packed linears against the decoded matrix, with every instruction set.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first linear that it cannot make"
)]

use std::sync::Arc;

use half::f16;
use treillage_cpu::Arithmetic;
use treillage_cpu::packed::Rotated;
use treillage_linalg::hadamard::fwht;
use treillage_trellis::lanes::Isa;
use treillage_trellis::{
    Bits, Codebook, MUL1_MULTIPLIER, MUL1_OFFSET, MUL1_SCALE, PackedLinear, PackedParts, TILE, tile,
};

/// Uniform numbers, the same on every machine (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// In −1..1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.signed()).collect()
    }

    fn halves(&mut self, len: usize) -> Vec<f16> {
        (0..len).map(|_| f16::from_f32(self.signed())).collect()
    }

    /// Any words are a trellis.
    fn linear(
        &mut self,
        inputs: usize,
        outputs: usize,
        bits: Bits,
        codebook: Codebook,
    ) -> PackedLinear {
        let shape = [inputs / TILE, outputs / TILE, bits.words_per_tile()];
        let words: Vec<u16> = (0..shape.iter().product())
            .map(|_| self.next() as u16)
            .collect();
        PackedLinear::new(PackedParts {
            words: Arc::new(words),
            shape,
            codebook,
            suh: self.halves(inputs),
            svh: self.halves(outputs),
            bias: self.next().is_multiple_of(2).then(|| self.halves(outputs)),
        })
        .unwrap()
    }
}

/// Whether `found` is as near to `expected` as sums in f32 are.
fn assert_close(found: &[f32], expected: &[f64], what: &str) {
    let energy: f64 = expected.iter().map(|e| e * e).sum();
    let error: f64 = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f) - e).powi(2))
        .sum();
    assert_eq!(found.len(), expected.len(), "{what}");
    assert!(
        error <= 1e-11 * energy,
        "{what}: relative error {}",
        (error / energy).sqrt()
    );
}

/// `x W + bias` in f64.
fn expected_output(linear: &PackedLinear, x: &[f32], width: usize) -> Vec<f64> {
    let weights = linear.dequantize();
    let mut out = Vec::new();
    for x in x.chunks_exact(width) {
        for (i, column) in weights.column_iter().enumerate() {
            let products = x
                .iter()
                .zip(column.iter())
                .map(|(&x, &w)| f64::from(x) * f64::from(w));
            let bias = linear.bias().map_or(0.0, |bias| bias[i].to_f64());
            out.push(products.sum::<f64>() + bias);
        }
    }
    out
}

#[test]
fn exact_products_are_those_of_the_decoded_matrix() {
    let mut random = Random(1);
    for bits in Bits::all() {
        for codebook in Codebook::ALL {
            let linear = random.linear(256, 384, bits, codebook);
            for rows in [1, 2, 3, 7] {
                let x = random.vector(rows * 256);
                let expected = expected_output(&linear, &x, 256);
                for isa in Isa::available() {
                    let rotated = Rotated::new(isa, Arithmetic::Exact, &linear, &x, 256);
                    let mut out = vec![f32::NAN; rows * 384];
                    rotated.multiply(&linear, 0..24, &mut out);
                    let what = format!(
                        "{}, K = {bits}, {codebook}, {rows} rows",
                        isa.level().name()
                    );
                    assert_close(&out, &expected, &what);
                }
            }
        }
    }
}

#[test]
fn ranges_of_tiles_are_columns_of_the_whole() {
    let mut random = Random(2);
    let linear = random.linear(128, 384, Bits::new(3).unwrap(), Codebook::Mul1);
    for arithmetic in [Arithmetic::Exact, Arithmetic::Int8] {
        for rows in [1, 5] {
            let x = random.vector(rows * 128);
            let rotated = Rotated::new(Isa::best(), arithmetic, &linear, &x, 128);
            let mut whole = vec![0.0; rows * 384];
            rotated.multiply(&linear, 0..24, &mut whole);
            for tiles in [0..8, 8..24, 16..24, 8..8] {
                let mut part = vec![0.0; rows * TILE * tiles.len()];
                rotated.multiply(&linear, tiles.clone(), &mut part);
                let columns = TILE * tiles.start..TILE * tiles.end;
                let rows = whole
                    .chunks_exact(384)
                    .flat_map(|row| &row[columns.clone()]);
                assert!(part.iter().eq(rows), "{arithmetic:?}, {tiles:?}");
            }
        }
    }
}

#[test]
fn narrow_rows_are_padded_with_zeros() {
    let mut random = Random(3);
    let linear = random.linear(256, 128, Bits::new(4).unwrap(), Codebook::Mcg);
    let x = random.vector(3 * 200);
    let rotated = Rotated::new(Isa::best(), Arithmetic::Exact, &linear, &x, 200);
    let mut out = vec![0.0; 3 * 128];
    rotated.multiply(&linear, 0..8, &mut out);
    assert_close(
        &out,
        &expected_output(&linear, &x, 200),
        "200 of 256 channels",
    );
}

/// The rows' blocks of 128 activations, rotated and quantized: values and step.
fn quantize(linear: &PackedLinear, x: &[f32]) -> Vec<([i32; 128], f32)> {
    let scales: Vec<f32> = linear.suh().iter().map(|s| s.to_f32()).collect();
    let mut rotated: Vec<f32> = x
        .iter()
        .zip(scales.iter().cycle())
        .map(|(x, s)| x * s)
        .collect();
    fwht(&mut rotated, 128);
    let (blocks, _) = rotated.as_chunks::<128>();
    let quantize = |block: &[f32; 128]| {
        let largest = block.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
        let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        (
            block.map(|x| (x * scale).round_ties_even() as i32),
            largest / 127.0,
        )
    };
    blocks.iter().map(quantize).collect()
}

/// The int8 product, `[rows, out]`, as its definition has it: exact integer sums, scaled block by block.
fn int8_product(linear: &PackedLinear, x: &[f32]) -> Vec<f32> {
    let [tiles_in, tiles_out, per_tile] = linear.shape();
    let (inputs, outputs) = (linear.in_features(), linear.out_features());
    let mut byte_sums = vec![0; inputs * outputs];
    for a in 0..tiles_in {
        for b in 0..tiles_out {
            let words = &linear.words()[(a * tiles_out + b) * per_tile..][..per_tile];
            let states = tile::unpack_states(words, linear.bits());
            for (state, place) in states.into_iter().zip(tile::ROW_MAJOR) {
                let (row, column) = (usize::from(place) / TILE, usize::from(place) % TILE);
                let bytes = u32::from(state).wrapping_mul(MUL1_MULTIPLIER).to_le_bytes();
                let sum: i32 = bytes.into_iter().map(i32::from).sum();
                byte_sums[(a * TILE + row) * outputs + b * TILE + column] = sum;
            }
        }
    }
    let quantized = quantize(linear, x);
    let mut out = Vec::new();
    for blocks in quantized.chunks_exact(inputs / 128) {
        let offset: f32 = blocks
            .iter()
            .map(|(values, step)| {
                (1024.0 * MUL1_SCALE + MUL1_OFFSET) * step * values.iter().sum::<i32>() as f32
            })
            .sum();
        for column in 0..outputs {
            let mut y = offset;
            for (block, (values, step)) in blocks.iter().enumerate() {
                let sum: i32 = (0..128)
                    .map(|i| values[i] * byte_sums[(128 * block + i) * outputs + column])
                    .sum();
                y += MUL1_SCALE * step * sum as f32;
            }
            out.push(y);
        }
    }
    out
}

#[test]
fn int8_products_equal_their_definition_bit_for_bit() {
    let mut random = Random(4);
    for bits in Bits::all() {
        let linear = random.linear(256, 128, bits, Codebook::Mul1);
        for rows in [1, 2, 3, 4, 9] {
            let mut x = random.vector(rows * 256);
            // One block of zeros, which has no scale.
            x[..128].fill(0.0);
            let expected = int8_product(&linear, &x);
            for isa in Isa::available() {
                let rotated = Rotated::new(isa, Arithmetic::Int8, &linear, &x, 256);
                let mut out = vec![f32::NAN; rows * 128];
                rotated.product(&linear, 0..8, &mut out);
                assert_eq!(
                    out,
                    expected,
                    "{}, K = {bits}, {rows} rows",
                    isa.level().name()
                );
            }
        }
    }
}

#[test]
fn int8_is_near_exact() {
    let mut random = Random(5);
    let linear = random.linear(512, 256, Bits::new(3).unwrap(), Codebook::Mul1);
    let x = random.vector(512);
    let [exact, int8] = [Arithmetic::Exact, Arithmetic::Int8].map(|arithmetic| {
        let mut out = vec![0.0; 256];
        let rotated = Rotated::new(Isa::best(), arithmetic, &linear, &x, 512);
        rotated.multiply(&linear, 0..16, &mut out);
        out
    });
    let energy: f32 = exact.iter().map(|e| e * e).sum();
    let error: f32 = exact.iter().zip(&int8).map(|(e, i)| (e - i).powi(2)).sum();
    assert!(
        (1e-3..1.5e-2).contains(&(error / energy).sqrt()),
        "{}",
        (error / energy).sqrt()
    );
}

#[test]
fn activations_that_are_not_finite_are_not_lost() {
    let mut random = Random(6);
    let linear = random.linear(256, 128, Bits::new(2).unwrap(), Codebook::Mul1);
    for rows in [1, 4] {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = random.vector(rows * 256);
            x[3] = bad;
            for arithmetic in [Arithmetic::Exact, Arithmetic::Int8] {
                let rotated = Rotated::new(Isa::best(), arithmetic, &linear, &x, 256);
                let mut out = vec![0.0; rows * 128];
                rotated.multiply(&linear, 0..8, &mut out);
                assert!(
                    out[..128].iter().all(|y| !y.is_finite()),
                    "{arithmetic:?}, {bad}"
                );
                assert!(
                    out[128..].iter().all(|y| y.is_finite()),
                    "{arithmetic:?}, {bad}"
                );
            }
        }
    }
}

#[test]
fn int8_leaves_other_codebooks_exact() {
    let mut random = Random(7);
    let linear = random.linear(128, 128, Bits::new(5).unwrap(), Codebook::Mcg);
    let x = random.vector(128);
    let rotated = Rotated::new(Isa::best(), Arithmetic::Int8, &linear, &x, 128);
    let mut out = vec![0.0; 128];
    rotated.multiply(&linear, 0..8, &mut out);
    assert_close(&out, &expected_output(&linear, &x, 128), "MCG");
}
