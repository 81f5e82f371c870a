//! Tensors on their way into a file.

use std::{
    io::{self, Write},
    path::Path,
};

use crate::{
    DenseData, DenseTensor, Dtype, HalfDtype, Result, WriteError,
    safetensors::{Entry, write_header},
};

/// A tensor with the bytes to be written.
pub(super) struct OutTensor<'a> {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Bytes<'a>,
}

/// Where the bytes come from.
pub(super) enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
    Words(Vec<u32>),
    Converted(DenseData),
    Scalar([u8; 4]),
}

impl Bytes<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
            Bytes::Words(words) => bytemuck::cast_slice(words),
            Bytes::Converted(data) => data.bytes(),
            Bytes::Scalar(bytes) => bytes,
        }
    }
}

impl<'a> OutTensor<'a> {
    /// `tensor` as it is.
    ///
    /// # Errors
    /// [`crate::TensorError::NotFinite`].
    pub(super) fn verbatim(tensor: &'a DenseTensor) -> Result<Self> {
        tensor.check_finite()?;
        Ok(Self {
            name: tensor.name().to_owned(),
            dtype: tensor.data().dtype(),
            shape: tensor.shape().to_vec(),
            bytes: Bytes::Borrowed(tensor.data().bytes()),
        })
    }

    /// `tensor` as `name`, its values rounded to `dtype`.
    ///
    /// # Errors
    /// [`crate::TensorError::NotFinite`], or [`WriteError::Overflow`] at `output`.
    pub(super) fn converted(
        name: String,
        tensor: &DenseTensor,
        dtype: HalfDtype,
        output: &Path,
    ) -> Result<Self> {
        tensor.check_finite()?;
        let data = tensor.data().to_half(dtype);
        if let Some((index, _)) = data.first_not_finite() {
            return Err(WriteError::Overflow {
                name,
                index,
                value: tensor.to_f32()[index],
                dtype: dtype.into(),
            }
            .at(output));
        }
        Ok(Self {
            name,
            dtype: dtype.into(),
            shape: tensor.shape().to_vec(),
            bytes: Bytes::Converted(data),
        })
    }
}

/// Writes `tensors` as a safetensors file.
pub(super) fn write_tensors(out: &mut impl Write, tensors: &[OutTensor<'_>]) -> io::Result<()> {
    let entries: Vec<_> = tensors
        .iter()
        .map(|tensor| Entry {
            name: &tensor.name,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            len: tensor.bytes.as_slice().len(),
        })
        .collect();
    write_header(out, &entries)?;
    let mut bytes = tensors.iter().map(|tensor| tensor.bytes.as_slice());
    bytes.try_for_each(|bytes| out.write_all(bytes))
}
