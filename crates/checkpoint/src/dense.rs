use std::{fmt, path::PathBuf, sync::Arc};

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{Dtype, Error, Result, TensorError, TensorView};

/// Values that someone else owns: a vector, or a window into a memory-mapped file.
pub type Shared<T> = Arc<dyn AsRef<[T]> + Send + Sync>;

/// The values of a [`DenseTensor`], row-major, in the type they are stored in.
#[derive(Clone)]
pub enum DenseData {
    /// 32-bit floats.
    F32(Shared<f32>),
    /// IEEE half precision.
    F16(Shared<f16>),
    /// bfloat16.
    Bf16(Shared<bf16>),
}

impl DenseData {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            DenseData::F32(v) => (**v).as_ref().len(),
            DenseData::F16(v) => (**v).as_ref().len(),
            DenseData::Bf16(v) => (**v).as_ref().len(),
        }
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    pub fn dtype(&self) -> Dtype {
        match self {
            DenseData::F32(_) => Dtype::F32,
            DenseData::F16(_) => Dtype::F16,
            DenseData::Bf16(_) => Dtype::Bf16,
        }
    }

    /// Their bytes, little-endian.
    pub fn bytes(&self) -> &[u8] {
        match self {
            DenseData::F32(v) => bytemuck::cast_slice((**v).as_ref()),
            DenseData::F16(v) => bytemuck::cast_slice((**v).as_ref()),
            DenseData::Bf16(v) => bytemuck::cast_slice((**v).as_ref()),
        }
    }

    /// A copy in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            DenseData::F32(v) => (**v).as_ref().to_vec(),
            DenseData::F16(v) => (**v).as_ref().to_f32_vec(),
            DenseData::Bf16(v) => (**v).as_ref().to_f32_vec(),
        }
    }

    /// The same values in a 16-bit type, rounded to nearest; shared if they are of that type already.
    pub(crate) fn to_half(&self, dtype: HalfDtype) -> DenseData {
        match (self, dtype) {
            (DenseData::F16(_), HalfDtype::F16) | (DenseData::Bf16(_), HalfDtype::Bf16) => {
                self.clone()
            }
            (_, HalfDtype::F16) => self.map(f16::from_f32).into(),
            (_, HalfDtype::Bf16) => self.map(bf16::from_f32).into(),
        }
    }

    /// `convert` of every value.
    pub(crate) fn map<T>(&self, convert: impl Fn(f32) -> T) -> Vec<T> {
        match self {
            DenseData::F32(v) => (**v).as_ref().iter().map(|&x| convert(x)).collect(),
            DenseData::F16(v) => {
                let values = (**v).as_ref().iter();
                values.map(|x| convert(x.to_f32())).collect()
            }
            DenseData::Bf16(v) => {
                let values = (**v).as_ref().iter();
                values.map(|x| convert(x.to_f32())).collect()
            }
        }
    }

    /// The first value that is NaN or infinite, with its position.
    pub(crate) fn first_not_finite(&self) -> Option<(usize, f32)> {
        fn first<T: Copy>(
            values: &[T],
            finite: impl Fn(T) -> bool,
            to_f32: impl Fn(T) -> f32,
        ) -> Option<(usize, f32)> {
            let index = values.iter().position(|&v| !finite(v))?;
            Some((index, to_f32(values[index])))
        }
        match self {
            DenseData::F32(v) => first((**v).as_ref(), f32::is_finite, |x| x),
            DenseData::F16(v) => first((**v).as_ref(), f16::is_finite, f16::to_f32),
            DenseData::Bf16(v) => first((**v).as_ref(), bf16::is_finite, bf16::to_f32),
        }
    }
}

/// The 16-bit types that checkpoints are published in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HalfDtype {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    #[default]
    Bf16,
}

impl From<HalfDtype> for Dtype {
    fn from(dtype: HalfDtype) -> Self {
        match dtype {
            HalfDtype::F16 => Dtype::F16,
            HalfDtype::Bf16 => Dtype::Bf16,
        }
    }
}

impl From<Vec<f32>> for DenseData {
    fn from(values: Vec<f32>) -> Self {
        DenseData::F32(Arc::new(values))
    }
}

impl From<Vec<f16>> for DenseData {
    fn from(values: Vec<f16>) -> Self {
        DenseData::F16(Arc::new(values))
    }
}

impl From<Vec<bf16>> for DenseData {
    fn from(values: Vec<bf16>) -> Self {
        DenseData::Bf16(Arc::new(values))
    }
}

/// A named tensor of floating-point values, row-major. Cheap to clone; usually a window into the mapped checkpoint.
#[derive(Clone)]
pub struct DenseTensor {
    name: String,
    /// Where it was read from; `None` if it was computed.
    file: Option<PathBuf>,
    shape: Vec<usize>,
    data: DenseData,
}

impl DenseTensor {
    /// `data` as a tensor of `shape`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless there are as many values as `shape` has elements.
    pub fn new(
        name: impl Into<String>,
        shape: impl Into<Vec<usize>>,
        data: impl Into<DenseData>,
    ) -> Result<Self> {
        let tensor = Self {
            name: name.into(),
            file: None,
            shape: shape.into(),
            data: data.into(),
        };
        let elements = tensor
            .shape
            .iter()
            .try_fold(1, |n: usize, &dim| n.checked_mul(dim));
        if elements == Some(tensor.data.len()) {
            return Ok(tensor);
        }
        Err(tensor.error(TensorError::Shape {
            expected: tensor.shape.clone(),
            found: vec![tensor.data.len()],
        }))
    }

    /// The whole of `view`, if it is of one of the three types that weights are computed from.
    pub(crate) fn from_view(view: &TensorView<'_>) -> Result<Self> {
        let shape = view.shape().to_vec();
        Self::part_of(view, view.name().to_owned(), 0, shape)
    }

    /// `shape` beginning at element `first` of `view`, which has room for it.
    pub(crate) fn part_of(
        view: &TensorView<'_>,
        name: String,
        first: usize,
        shape: Vec<usize>,
    ) -> Result<Self> {
        let part = first..first + shape.iter().product::<usize>();
        let data = match view.dtype() {
            Dtype::F32 => DenseData::F32(view.values(part)),
            Dtype::F16 => DenseData::F16(view.values(part)),
            Dtype::Bf16 => DenseData::Bf16(view.values(part)),
            found => {
                let expected = "F32, F16 or BF16";
                return Err(view.error(TensorError::Dtype { expected, found }));
            }
        };
        Ok(Self::computed_from(view, name, shape, data))
    }

    /// `data`, which fill `shape` and were worked out from `view`.
    pub(crate) fn computed_from(
        view: &TensorView<'_>,
        name: String,
        shape: Vec<usize>,
        data: DenseData,
    ) -> Self {
        Self {
            name,
            file: Some(view.file().to_owned()),
            shape,
            data,
        }
    }

    /// Its name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape; a linear's weight is `[out_features, in_features]`.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its values.
    pub fn data(&self) -> &DenseData {
        &self.data
    }

    /// A copy of its values in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.to_f32()
    }

    /// Checks that there is no NaN and no infinity. Reads the whole tensor.
    ///
    /// # Errors
    /// [`TensorError::NotFinite`] with the first offender, naming the tensor.
    pub fn check_finite(&self) -> Result<()> {
        match self.data.first_not_finite() {
            Some((index, value)) => Err(self.error(TensorError::NotFinite { index, value })),
            None => Ok(()),
        }
    }

    /// `reason` with this tensor's name and file.
    pub(crate) fn error(&self, reason: TensorError) -> Error {
        Error::Tensor {
            file: self.file.clone().unwrap_or_else(|| "in memory".into()),
            name: self.name.clone(),
            reason,
        }
    }
}

impl fmt::Debug for DenseTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DenseTensor({} {} {:?})",
            self.name,
            self.data.dtype(),
            self.shape
        )
    }
}
