//! Layers to test with: what a backend loads beside the matrix that it stands for.

use std::sync::Arc;

use half::{bf16, f16};
use treillage_trellis::{Bits, Codebook, PackedLinear, PackedParts};

use super::grouped::{Make, grouped};
use super::noise::Noise;
use super::reference::{self, Matrix};
use crate::{DenseData, DenseWeights, Error, Inference, LinearShape, LinearWeights, SwiGlu};

/// How a layer is stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Storage {
    F32,
    F16,
    Bf16,
    Trellis(usize, Codebook),
    Grouped(Make),
}

/// A linear layer, as stored and in f64.
pub(super) struct Layer {
    pub(super) weights: LinearWeights,
    pub(super) shape: LinearShape,
    /// `[out, in]`.
    pub(super) matrix: Matrix,
    pub(super) bias: Vec<f64>,
}

pub(super) const fn shape(in_features: usize, out_features: usize) -> LinearShape {
    LinearShape {
        in_features,
        out_features,
    }
}

impl Layer {
    /// Random weights whose output is about as large as its input.
    pub(super) fn new(
        noise: &mut Noise,
        storage: Storage,
        shape: LinearShape,
        bias: bool,
    ) -> Result<Self, Error> {
        match storage {
            Storage::Trellis(bits, codebook) => trellis(noise, bits, codebook, shape, bias),
            Storage::Grouped(make) => grouped(noise, make, shape, bias),
            _ => dense(noise, storage, shape, bias),
        }
    }

    pub(super) fn load<B: Inference>(&self, backend: &B) -> Result<B::Linear, Error> {
        backend.load_linear(self.weights.clone(), self.shape)
    }

    pub(super) fn apply(&self, x: &[f64]) -> Vec<f64> {
        reference::linear(x, &self.matrix, &self.bias)
    }
}

impl SwiGlu<Layer> {
    pub(super) fn random(
        noise: &mut Noise,
        storage: Storage,
        hidden_to_intermediate: LinearShape,
    ) -> Result<Self, Error> {
        let LinearShape {
            in_features,
            out_features,
        } = hidden_to_intermediate;
        Ok(Self {
            gate: Layer::new(noise, storage, hidden_to_intermediate, false)?,
            up: Layer::new(noise, storage, hidden_to_intermediate, false)?,
            down: Layer::new(noise, storage, shape(out_features, in_features), false)?,
        })
    }

    pub(super) fn load<B: Inference>(&self, backend: &B) -> Result<SwiGlu<B::Linear>, Error> {
        Ok(SwiGlu {
            gate: self.gate.load(backend)?,
            up: self.up.load(backend)?,
            down: self.down.load(backend)?,
        })
    }

    pub(super) fn weights(&self) -> SwiGlu<LinearWeights> {
        SwiGlu {
            gate: self.gate.weights.clone(),
            up: self.up.weights.clone(),
            down: self.down.weights.clone(),
        }
    }

    /// What `down` reads.
    pub(super) fn hidden(&self, x: &[f64]) -> Vec<f64> {
        reference::swiglu(&self.gate.apply(x), &self.up.apply(x))
    }

    pub(super) fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.down.apply(&self.hidden(x))
    }
}

/// Values as they are stored, and what is left of them in f32.
pub(super) fn store(values: Vec<f32>, storage: Storage) -> (DenseData, Vec<f32>) {
    match storage {
        Storage::F16 => {
            let stored: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
            let kept = stored.iter().map(|x| x.to_f32()).collect();
            (DenseData::F16(Arc::new(stored)), kept)
        }
        Storage::Bf16 => {
            let stored: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
            let kept = stored.iter().map(|x| x.to_f32()).collect();
            (DenseData::Bf16(Arc::new(stored)), kept)
        }
        _ => (DenseData::F32(Arc::new(values.clone())), values),
    }
}

fn dense(
    noise: &mut Noise,
    storage: Storage,
    shape: LinearShape,
    bias: bool,
) -> Result<Layer, Error> {
    let LinearShape {
        in_features,
        out_features,
    } = shape;
    let mut values = noise.values(shape.weights());
    let scale = (3.0 / in_features as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= scale);
    let (data, kept) = store(values, storage);
    let bias = bias.then(|| noise.values(out_features));
    Ok(Layer {
        shape,
        matrix: Matrix::new(&kept, in_features),
        bias: widened(bias.as_deref(), out_features),
        weights: LinearWeights::Dense {
            weight: DenseWeights::new(out_features, in_features, data)?,
            bias,
        },
    })
}

pub(super) fn widened(bias: Option<&[f32]>, out_features: usize) -> Vec<f64> {
    match bias {
        Some(bias) => bias[..out_features]
            .iter()
            .copied()
            .map(f64::from)
            .collect(),
        None => vec![0.0; out_features],
    }
}

fn trellis(
    noise: &mut Noise,
    bits: usize,
    codebook: Codebook,
    shape: LinearShape,
    bias: bool,
) -> Result<Layer, Error> {
    let bits = Bits::new(bits)?;
    let [rows, cols] = [shape.in_features, shape.out_features].map(|n| n.next_multiple_of(128));
    let mut signed = |count: usize, scale: f32| -> Vec<f16> {
        (0..count)
            .map(|_| f16::from_f32((1.0 + 0.5 * noise.value()) * scale * noise.value().signum()))
            .collect()
    };
    let suh = signed(rows, 1.0 / (rows as f32).sqrt());
    let svh = signed(cols, 1.0);
    let bias = bias.then(|| signed(cols, 0.5));
    let shape_of_words = [rows / 16, cols / 16, bits.words_per_tile()];
    let words: Vec<u16> = (0..shape_of_words.iter().product())
        .map(|_| noise.bits() as u16)
        .collect();

    let inner = decode(&words, shape_of_words, codebook);
    let rotated = rotate_columns(&rotate_columns(&inner, 128).transposed(), 128).transposed();
    let mut matrix = Matrix::zeros(shape.out_features, shape.in_features);
    for o in 0..shape.out_features {
        for i in 0..shape.in_features {
            let scale = suh[i].to_f64() * svh[o].to_f64();
            matrix.values[o * shape.in_features + i] = rotated.row(i)[o] * scale;
        }
    }
    let kept: Option<Vec<f32>> = bias
        .as_ref()
        .map(|bias| bias.iter().map(|b| b.to_f32()).collect());
    Ok(Layer {
        shape,
        matrix,
        bias: widened(kept.as_deref(), shape.out_features),
        weights: LinearWeights::Trellis(Arc::new(PackedLinear::new(PackedParts {
            words: Arc::new(words),
            shape: shape_of_words,
            codebook,
            suh,
            svh,
            bias,
        })?)),
    })
}

/// The decoded trellis `[in, out]`, bit by bit.
fn decode(
    words: &[u16],
    [tile_rows, tile_cols, per_tile]: [usize; 3],
    codebook: Codebook,
) -> Matrix {
    let bits = per_tile / 16;
    let stream = 256 * bits;
    let mut inner = Matrix::zeros(16 * tile_rows, 16 * tile_cols);
    for (tile, words) in words.chunks_exact(per_tile).enumerate() {
        for step in 0..256 {
            // The state is the sixteen bits of the circular stream that end with this step's; pairs of words are swapped.
            let state = (0..16).fold(0u16, |state, bit| {
                let at = ((step + 1) * bits + stream + bit - 16) % stream;
                (state << 1) | ((words[(at / 16) ^ 1] >> (15 - at % 16)) & 1)
            });
            let (lane, j) = (step / 8, step % 8);
            let row = 16 * (tile / tile_cols) + 2 * (lane % 4) + j % 2 + 8 * (j / 2 % 2);
            let col = 16 * (tile % tile_cols) + lane / 4 + 8 * (j / 4);
            inner.values[row * 16 * tile_cols + col] = codebook.value(state).to_f64();
        }
    }
    inner
}

/// `M H`, with `H` the block-diagonal Hadamard matrix of blocks of `size`.
pub(super) fn rotate_columns(m: &Matrix, size: usize) -> Matrix {
    m.map_rows(|row| {
        (0..row.len())
            .map(|i| {
                let block = &row[i / size * size..][..size];
                let signed = block.iter().enumerate().map(|(j, x)| {
                    if ((i % size) & j).count_ones().is_multiple_of(2) {
                        *x
                    } else {
                        -x
                    }
                });
                signed.sum::<f64>() / (size as f64).sqrt()
            })
            .collect()
    })
}

impl Matrix {
    fn transposed(&self) -> Matrix {
        let rows = self.rows().len();
        let mut transposed = Matrix::zeros(self.cols, rows);
        for (i, row) in self.rows().enumerate() {
            for (j, value) in row.iter().enumerate() {
                transposed.values[j * rows + i] = *value;
            }
        }
        transposed
    }
}
