//! `fp_quant`: E2M1 codes of rotated weights, beside them the rotation as a matrix.

use treillage_gptq::{GroupedLinear, Rotation};

use super::{ByteScale, Linear, expect_dtype, matrix_shape};
use crate::{
    DenseTensor, Dtype, FpQuantDtype, Quantization, Result, StoredLinear, TensorError, TensorView,
};

/// bf16 keeps eight bits of significand: half of the last one is what an entry may be off by.
const ROUNDING: f32 = 1.0 / 512.0;

impl Linear<'_> {
    /// Reads `qweight` and what belongs to it.
    pub(super) fn fp_quant(&self, codes: &TensorView<'_>) -> Result<GroupedLinear> {
        let scale = self.need("scales")?;
        let expected = "U8";
        expect_dtype(&scale, &[Dtype::U8, Dtype::F8E4m3, Dtype::F8E8m0], expected)?;
        let kind = match self.checkpoint.quantization() {
            Some(Quantization::FpQuant { forward }) => match forward {
                FpQuantDtype::NvFp4 => ByteScale::E4m3,
                FpQuantDtype::MxFp4 => ByteScale::E8m0,
            },
            // By the number of scales, then: 16 weights share one, or 32.
            _ if scale.len().checked_mul(16) == self.weights() => ByteScale::E4m3,
            _ => ByteScale::E8m0,
        };
        let global = self.factor("weight_global_scale")?;
        let rotation = self.rotation()?;
        self.e2m1(codes, &scale, kind, global, rotation)
    }

    /// Reads `dqweight`: weights that were quantized and made floats again, rotated as they are.
    pub(super) fn pseudo_quantized(&self, weights: &TensorView<'_>) -> Result<StoredLinear> {
        let (inputs, outputs) = (self.size.in_features, self.size.out_features);
        weights.expect_shape(&[outputs, inputs])?;
        let dense = DenseTensor::from_view(weights)?;
        let weight = match self.rotation()? {
            Rotation::None => dense,
            Rotation::Block(block) => {
                if !inputs.is_multiple_of(block) {
                    let in_features = inputs;
                    return Err(
                        weights.error(treillage_gptq::Error::Rotation { block, in_features })
                    );
                }
                let mut values = dense.to_f32();
                for run in values.chunks_exact_mut(block) {
                    hadamard(run);
                }
                let name = weights.name().to_owned();
                DenseTensor::computed_from(weights, name, vec![outputs, inputs], values.into())
            }
        };
        Ok(StoredLinear::Dense {
            weight,
            bias: self.bias()?,
        })
    }

    fn weights(&self) -> Option<usize> {
        self.size.in_features.checked_mul(self.size.out_features)
    }

    /// What `forward_hadamard_matrix` is: the identity, or Hadamard matrices in Sylvester's order, made orthonormal,
    /// along its diagonal. Usually there is one; several where linears are rotated in blocks of different sizes,
    /// because the matrices of a checkpoint must have one size.
    fn rotation(&self) -> Result<Rotation> {
        let view = self.need("forward_hadamard_matrix")?;
        let [k, columns] = matrix_shape(&view)?;
        if columns != k {
            view.expect_shape(&[k, k])?;
        }
        if !Rotation::BLOCKS.contains(&k) {
            return Err(view.error(TensorError::NotHadamard));
        }
        let matrix = DenseTensor::from_view(&view)?.to_f32();
        if is_hadamard(&matrix, k, 1) {
            return Ok(Rotation::None);
        }
        let mut blocks = Rotation::BLOCKS.into_iter().filter(|&block| block <= k);
        match blocks.find(|&block| is_hadamard(&matrix, k, block)) {
            Some(block) => Ok(Rotation::Block(block)),
            None => Err(view.error(TensorError::NotHadamard)),
        }
    }
}

/// Whether `matrix`, of `size`, has Hadamard matrices of `block` along its diagonal and is zero elsewhere.
fn is_hadamard(matrix: &[f32], size: usize, block: usize) -> bool {
    let magnitude = 1.0 / (block as f32).sqrt();
    matrix.iter().enumerate().all(|(at, value)| {
        let (row, column) = (at / size, at % size);
        if row / block != column / block {
            return *value == 0.0;
        }
        let sign = ((row % block) & (column % block)).count_ones();
        let expected = if sign.is_multiple_of(2) {
            magnitude
        } else {
            -magnitude
        };
        (value - expected).abs() <= magnitude * ROUNDING
    })
}

/// Multiplies `values`, a power of two of them, by the orthonormal Hadamard matrix in Sylvester's order.
fn hadamard(values: &mut [f32]) {
    let len = values.len();
    let mut half = 1;
    while half < len {
        for pair in values.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (len as f32).sqrt();
    values.iter_mut().for_each(|value| *value *= scale);
}
