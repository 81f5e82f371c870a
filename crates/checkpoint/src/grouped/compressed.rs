//! compressed-tensors: `pack-quantized`, `nvfp4-pack-quantized`, `mxfp4-pack-quantized`, and `int-quantized` of 8 bits.

use treillage_gptq::{Element, GroupedLinear, IntBits, Parts, Rotation, Scales, pack};

use super::{
    ByteScale, Linear, byte_scales, expect_dtype, float_scales, matrix_shape, order, signed_range,
    unless_middle, words,
};
use crate::{Dtype, Quantization, Result, TensorError, TensorView};

impl Linear<'_> {
    /// Reads `weight_packed` and what belongs to it: integers in words, or E2M1 in bytes.
    pub(super) fn compressed(&self, codes: &TensorView<'_>) -> Result<GroupedLinear> {
        match codes.dtype() {
            Dtype::U8 => self.compressed_e2m1(codes),
            Dtype::I32 => self.compressed_int(codes),
            found => {
                let expected = "I32 (integers) or U8 (E2M1)";
                Err(codes.error(TensorError::Dtype { expected, found }))
            }
        }
    }

    fn compressed_e2m1(&self, codes: &TensorView<'_>) -> Result<GroupedLinear> {
        let scale = self.need("weight_scale")?;
        expect_dtype(
            &scale,
            &[Dtype::F8E4m3, Dtype::U8, Dtype::F8E8m0],
            "F8_E4M3 (NVFP4) or U8 (MXFP4)",
        )?;
        match scale.dtype() {
            Dtype::F8E4m3 => {
                let global = self.factor("weight_global_scale")?;
                self.e2m1(codes, &scale, ByteScale::E4m3, global, Rotation::None)
            }
            _ => self.e2m1(codes, &scale, ByteScale::E8m0, 1.0, Rotation::None),
        }
    }

    /// Puts together what every format of E2M1 codes shares: nibbles and scales of a byte.
    pub(super) fn e2m1(
        &self,
        codes: &TensorView<'_>,
        scale: &TensorView<'_>,
        kind: ByteScale,
        global: f32,
        rotation: Rotation,
    ) -> Result<GroupedLinear> {
        let group = match kind {
            ByteScale::E4m3 => 16,
            ByteScale::E8m0 => 32,
        };
        let (inputs, outputs) = (self.size.in_features, self.size.out_features);
        codes.expect_shape(&[outputs, inputs / 2])?;
        scale.expect_shape(&[outputs, inputs / group])?;
        let scales = byte_scales(scale, kind, global)?;
        self.assemble(
            codes,
            Parts {
                in_features: inputs,
                out_features: outputs,
                element: Element::E2m1,
                group,
                codes: codes.bytes().to_vec(),
                scales,
                zeros: None,
                order: None,
                rotation,
                bias: self.bias()?,
            },
        )
    }

    fn compressed_int(&self, codes: &TensorView<'_>) -> Result<GroupedLinear> {
        let (inputs, outputs) = (self.size.in_features, self.size.out_features);
        let [rows, width] = matrix_shape(codes)?;
        let likely = match self.checkpoint.quantization() {
            Some(Quantization::CompressedTensors { bits }) => &bits[..],
            _ => &[],
        };
        let bits = self.int_bits(codes, width, inputs, likely)?;
        if rows != outputs {
            codes.expect_shape(&[outputs, width])?;
        }
        if let Some(shape) = self.find("weight_shape") {
            self.check_weight_shape(&shape)?;
        }
        let (scales, group) = self.scales_by_row()?;
        let groups = inputs / group;
        let zeros = self
            .find("weight_zero_point")
            .map(|zeros| self.packed_zeros(&zeros, bits, groups))
            .transpose()?;
        let order = match self.find("weight_g_idx") {
            Some(g_idx) => order::from_groups(&g_idx, inputs, groups)?,
            None => None,
        };
        // A stream of whole words is the same bytes as codes in memory.
        let in_place = matches!(bits, IntBits::Four | IntBits::Eight)
            && (inputs * bits.get()).is_multiple_of(32);
        let element = Element::Int(bits);
        let codes_in_memory = match (in_place, &order) {
            (true, None) => codes.bytes().to_vec(),
            _ => {
                let words = words(codes)?;
                let wide = pack::unpack_rows((*words).as_ref(), outputs, inputs, bits);
                pack::to_stored(order::apply(wide, order.as_deref()), element)
            }
        };
        self.assemble(
            codes,
            Parts {
                in_features: inputs,
                out_features: outputs,
                element,
                group,
                codes: codes_in_memory,
                scales,
                zeros: zeros.and_then(|zeros| unless_middle(zeros, bits)),
                order,
                rotation: Rotation::None,
                bias: self.bias()?,
            },
        )
    }

    /// 8-bit integers called `weight`, with scales.
    pub(super) fn int8(&self, codes: &TensorView<'_>) -> Result<GroupedLinear> {
        let (inputs, outputs) = (self.size.in_features, self.size.out_features);
        codes.expect_shape(&[outputs, inputs])?;
        let bits = IntBits::Eight;
        let (scales, group) = self.scales_by_row()?;
        let groups = inputs / group;
        let zeros = self
            .find("weight_zero_point")
            .map(|zeros| self.signed_zeros(&zeros, bits, groups))
            .transpose()?;
        // From two's complement to an offset of 128.
        let shifted = codes.bytes().iter().map(|byte| byte ^ 0x80).collect();
        self.assemble(
            codes,
            Parts {
                in_features: inputs,
                out_features: outputs,
                element: Element::Int(bits),
                group,
                codes: shifted,
                scales,
                zeros: zeros.and_then(|zeros| unless_middle(zeros, bits)),
                order: None,
                rotation: Rotation::None,
                bias: self.bias()?,
            },
        )
    }

    /// `weight_scale`, `[out, groups]`, or one for each output or for the whole matrix; with the inputs of a group.
    fn scales_by_row(&self) -> Result<(Scales, usize)> {
        let (inputs, outputs) = (self.size.in_features, self.size.out_features);
        let view = self.need("weight_scale")?;
        let groups = match *view.shape() {
            [rows, groups] if rows == outputs => groups,
            [rows] if rows == outputs => 1,
            [] | [1] | [1, 1] => {
                let repeated = |scales: Scales| match scales {
                    Scales::F16(v) => Scales::F16(vec![v[0]; outputs]),
                    Scales::Bf16(v) => Scales::Bf16(vec![v[0]; outputs]),
                    Scales::F32(v) => Scales::F32(vec![v[0]; outputs]),
                    bytes => bytes,
                };
                return Ok((repeated(float_scales(&view)?), inputs));
            }
            [_, groups] => {
                let expected = vec![outputs, groups];
                let found = view.shape().to_vec();
                return Err(view.error(TensorError::Shape { expected, found }));
            }
            _ => {
                let found = view.shape().to_vec();
                return Err(view.error(TensorError::Rank { expected: 2, found }));
            }
        };
        let group = self.group(&view, groups)?;
        Ok((float_scales(&view)?, group))
    }

    /// Zero points as codes, packed along the outputs or, by older writers, signed bytes.
    fn packed_zeros(
        &self,
        zeros: &TensorView<'_>,
        bits: IntBits,
        groups: usize,
    ) -> Result<Vec<u8>> {
        if zeros.dtype() == Dtype::I8 {
            return self.signed_zeros(zeros, bits, groups);
        }
        let outputs = self.size.out_features;
        let words = words(zeros)?;
        zeros.expect_shape(&[pack::words(outputs, bits), groups])?;
        Ok(pack::unpack_columns(
            (*words).as_ref(),
            outputs,
            groups,
            bits,
        ))
    }

    /// Zero points as the signed numbers they are, made codes.
    fn signed_zeros(
        &self,
        zeros: &TensorView<'_>,
        bits: IntBits,
        groups: usize,
    ) -> Result<Vec<u8>> {
        expect_dtype(zeros, &[Dtype::I8], "I8")?;
        let expected = [self.size.out_features, groups];
        if !(groups == 1 && zeros.shape() == [expected[0]]) {
            zeros.expect_shape(&expected)?;
        }
        let range = signed_range(bits);
        let code = |(index, &byte): (usize, &u8)| {
            let value = i16::from(byte as i8);
            match range.contains(&value) {
                true => Ok((value - range.start()) as u8),
                false => Err(zeros.error(TensorError::ZeroPoint {
                    index,
                    value,
                    bits: bits.get(),
                })),
            }
        };
        zeros.bytes().iter().enumerate().map(code).collect()
    }

    /// `weight_shape` holds the shape before packing.
    fn check_weight_shape(&self, shape: &TensorView<'_>) -> Result<()> {
        let expected = [self.size.out_features, self.size.in_features];
        shape.expect_shape(&[2])?;
        let found: Vec<i64> = match shape.dtype() {
            Dtype::I64 => (*shape.values::<i64>(0..2)).as_ref().to_vec(),
            Dtype::I32 => {
                let values = shape.values::<i32>(0..2);
                (*values).as_ref().iter().map(|&n| n.into()).collect()
            }
            found => {
                let expected = "I64";
                return Err(shape.error(TensorError::Dtype { expected, found }));
            }
        };
        if found
            .iter()
            .zip(expected)
            .all(|(&f, e)| usize::try_from(f) == Ok(e))
        {
            return Ok(());
        }
        Err(shape.error(TensorError::PackedShape {
            expected,
            found: [found[0], found[1]],
        }))
    }
}
