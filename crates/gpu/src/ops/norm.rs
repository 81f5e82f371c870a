//! RMS norm.

use bytemuck::{Pod, Zeroable};
use treillage_backend::Error;

use crate::{Context, Slice, Tensor};

/// The weight and epsilon of an RMS norm.
#[derive(Debug)]
pub struct Norm {
    weight: Slice,
    /// Kept on the host too, to be laid beside another norm's: it is small.
    values: Vec<f32>,
    epsilon: f32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    width: u32,
    epsilon: f32,
    flag: u32,
}

impl Norm {
    pub(crate) fn new(context: &Context, values: Vec<f32>, epsilon: f32) -> Result<Self, Error> {
        Ok(Self {
            weight: context.slabs.put("a norm", bytemuck::cast_slice(&values))?,
            values,
            epsilon,
        })
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(crate) fn epsilon(&self) -> f32 {
        self.epsilon
    }

    /// Its weights on the device.
    pub(crate) fn weight(&self) -> &Slice {
        &self.weight
    }

    /// Whether both have the same weights in the same place.
    pub(crate) fn key(&self) -> (crate::buffer::BufferId, u64, u64) {
        self.weight.key()
    }

    /// The norm of `x`, raising `flag` where that is not finite.
    pub(crate) fn apply(&self, context: &Context, x: &Tensor, flag: u32) -> Result<Tensor, Error> {
        x.check_width("input of a norm", self.values.len())?;
        let out = context.tensor(x.rows(), x.width())?;
        let params = Params {
            width: x.width() as u32,
            epsilon: self.epsilon,
            flag,
        };
        context.run(
            "rms_norm",
            &[
                ("WG", super::WORKGROUP.into()),
                ("REDUCE", context.reduce()),
            ],
            &[
                &x.slice(),
                &self.weight,
                &out.slice(),
                &context.guard.flags(context.gpu())?,
            ],
            &params,
            [x.rows() as u32, 1, 1],
        )?;
        Ok(out)
    }
}
