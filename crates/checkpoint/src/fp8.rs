//! Weights stored in 8-bit floats (E4M3) with scales per tensor, row or block.

use half::bf16;
use treillage_gptq::e4m3;

use crate::{Checkpoint, DenseTensor, Dtype, Quantization, Result, TensorError, TensorView};

impl Checkpoint {
    /// `weight` `[out, in]`, which is E4M3, times its scales, in bf16.
    ///
    /// The scales stand beside it: `weight_scale_inv` for the whole tensor or for blocks of
    /// `weight_block_size` (the last ones may be partial), or `weight_scale` for the tensor or for each row.
    /// Either is multiplied, whatever its name says.
    pub(crate) fn dequantize_fp8(&self, weight: &TensorView<'_>) -> Result<DenseTensor> {
        let &[rows, cols] = weight.shape() else {
            let found = weight.shape().to_vec();
            return Err(weight.error(TensorError::Rank { expected: 2, found }));
        };
        let by_block = self.tensor_if_any(&format!("{}_scale_inv", weight.name()));
        let scales = match by_block {
            Some(scales) => scales,
            None => self.tensor(&format!("{}_scale", weight.name()))?,
        };
        // Rows and columns that share a scale, and the scales' shape that this implies.
        let (block, expected) = match (scales.shape(), by_block, self.quantization()) {
            ([] | [1], _, _) => ([rows, cols], scales.shape().to_vec()),
            (_, None, _) => {
                let column = [rows, 1];
                let axes = scales.shape().len().min(2);
                ([1, cols], column[..axes].to_vec())
            }
            (_, Some(_), Some(Quantization::Fp8 { block: Some(block) })) => {
                let grid = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
                (*block, grid.to_vec())
            }
            _ => return Err(scales.error(TensorError::BlockSize)),
        };
        scales.expect_shape(&expected)?;
        let scales = DenseTensor::from_view(&scales)?;
        scales.check_finite()?;
        let scales = scales.to_f32();

        let [block_rows, block_cols] = block.map(|side| side.max(1));
        let per_row = cols.div_ceil(block_cols);
        let mut values = Vec::with_capacity(weight.len());
        for (r, row) in weight.bytes().chunks(cols.max(1)).enumerate() {
            let first = r / block_rows * per_row;
            for (span, scale) in row.chunks(block_cols).zip(&scales[first..]) {
                values.extend(
                    span.iter()
                        .map(|&b| bf16::from_f32(e4m3::decode(b) * scale)),
                );
            }
        }
        Ok(DenseTensor::computed_from(
            weight,
            weight.name().to_owned(),
            vec![rows, cols],
            values.into(),
        ))
    }

    /// `view` as it is, or dequantised if it is FP8.
    pub(crate) fn dense_or_fp8(&self, view: &TensorView<'_>) -> Result<DenseTensor> {
        match view.dtype() {
            Dtype::F8E4m3 => self.dequantize_fp8(view),
            _ => DenseTensor::from_view(view),
        }
    }
}
