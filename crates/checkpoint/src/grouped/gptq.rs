//! Classic GPTQ: `qweight` packed down the inputs, `qzeros`, `scales`, `g_idx`.

use treillage_gptq::{Element, GroupedLinear, IntBits, Parts, Rotation, Scales, pack};

use super::{Linear, float_scales, matrix_shape, order, unless_middle, words};
use crate::{GptqVersion, Quantization, Result, TensorError, TensorView};

impl Linear<'_> {
    pub(super) fn gptq(&self, codes: &TensorView<'_>) -> Result<GroupedLinear> {
        let Some(Quantization::Gptq {
            bits: likely,
            version,
        }) = self.checkpoint.quantization()
        else {
            return Err(codes.error(TensorError::NoGptqConfig));
        };
        let (inputs, outputs) = (self.size.in_features, self.size.out_features);
        let [height, columns] = matrix_shape(codes)?;
        let bits = self.int_bits(codes, height, inputs, &[*likely])?;
        if columns != outputs {
            codes.expect_shape(&[height, outputs])?;
        }
        let scales = self.need("scales")?;
        let [groups, columns] = matrix_shape(&scales)?;
        if columns != outputs {
            scales.expect_shape(&[groups, outputs])?;
        }
        let group = self.group(&scales, groups)?;
        let zeros = self.gptq_zeros(bits, groups, *version)?;
        let order = match self.find("g_idx") {
            Some(g_idx) => order::from_groups(&g_idx, inputs, groups)?,
            None => None,
        };
        let down = words(codes)?;
        let wide = pack::unpack_columns((*down).as_ref(), inputs, outputs, bits);
        let wide = order::apply(pack::transpose(&wide, outputs), order.as_deref());
        let element = Element::Int(bits);
        self.assemble(
            codes,
            Parts {
                in_features: inputs,
                out_features: outputs,
                element,
                group,
                codes: pack::to_stored(wide, element),
                scales: by_output(float_scales(&scales)?, outputs),
                zeros: unless_middle(zeros, bits),
                order,
                rotation: Rotation::None,
                bias: self.bias()?,
            },
        )
    }

    /// `qzeros`, `[groups, words of out]`, as codes `[out, groups]`.
    fn gptq_zeros(&self, bits: IntBits, groups: usize, version: GptqVersion) -> Result<Vec<u8>> {
        let outputs = self.size.out_features;
        let view = self.need("qzeros")?;
        let words = words(&view)?;
        view.expect_shape(&[groups, pack::words(outputs, bits)])?;
        let mut zeros = pack::unpack_rows((*words).as_ref(), groups, outputs, bits);
        if version == GptqVersion::V1 {
            // One less than the zero is stored; 0 had to wrap around.
            let mask = (bits.levels() - 1) as u8;
            for zero in &mut zeros {
                *zero = zero.wrapping_add(1) & mask;
            }
        }
        Ok(pack::transpose(&zeros, outputs))
    }
}

/// Scales `[groups, out]` as `[out, groups]`.
fn by_output(scales: Scales, outputs: usize) -> Scales {
    match scales {
        Scales::F16(v) => Scales::F16(pack::transpose(&v, outputs)),
        Scales::Bf16(v) => Scales::Bf16(pack::transpose(&v, outputs)),
        Scales::F32(v) => Scales::F32(pack::transpose(&v, outputs)),
        bytes => bytes,
    }
}
