//! What the layouts have in common.

use half::{bf16, f16};
use treillage_gptq::GroupedLinear;

use crate::{
    Dtype,
    write::part::{Bytes, OutTensor},
};

/// Collects the tensors of one linear.
pub(super) struct Leaves<'a, 'o> {
    name: &'o str,
    out: &'o mut Vec<OutTensor<'a>>,
}

impl<'a, 'o> Leaves<'a, 'o> {
    pub(super) fn of(name: &'o str, out: &'o mut Vec<OutTensor<'a>>) -> Self {
        Self { name, out }
    }

    pub(super) fn push(&mut self, leaf: &str, dtype: Dtype, shape: &[usize], bytes: Bytes<'a>) {
        self.out.push(OutTensor {
            name: format!("{}.{leaf}", self.name),
            dtype,
            shape: shape.to_vec(),
            bytes,
        });
    }

    pub(super) fn words(&mut self, leaf: &str, shape: [usize; 2], words: Vec<u32>) {
        self.push(leaf, Dtype::I32, &shape, Bytes::Words(words));
    }

    /// One number, as the vector that loaders expect.
    pub(super) fn factor(&mut self, leaf: &str, factor: f32) {
        self.push(leaf, Dtype::F32, &[1], Bytes::Scalar(factor.to_le_bytes()));
    }

    /// The bias, if any, in `usual` if that holds it exactly, else in a type that does.
    pub(super) fn bias(&mut self, linear: &'a GroupedLinear, usual: Dtype) {
        let Some(bias) = &linear.parts().bias else {
            return;
        };
        let fits = |dtype: &Dtype| match dtype {
            Dtype::F16 => bias.iter().all(|&b| f16::from_f32(b).to_f32() == b),
            Dtype::Bf16 => bias.iter().all(|&b| bf16::from_f32(b).to_f32() == b),
            _ => true,
        };
        let candidates = [usual, Dtype::Bf16, Dtype::F16, Dtype::F32];
        let dtype = candidates.into_iter().find(fits).unwrap_or(Dtype::F32);
        let bytes = match dtype {
            Dtype::F16 => {
                let halves: Vec<f16> = bias.iter().map(|&b| f16::from_f32(b)).collect();
                Bytes::Owned(bytemuck::cast_slice(&halves).to_vec())
            }
            Dtype::Bf16 => {
                let halves: Vec<bf16> = bias.iter().map(|&b| bf16::from_f32(b)).collect();
                Bytes::Owned(bytemuck::cast_slice(&halves).to_vec())
            }
            _ => Bytes::Borrowed(bytemuck::cast_slice(bias)),
        };
        self.push("bias", dtype, &[bias.len()], bytes);
    }
}
