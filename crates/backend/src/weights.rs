use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use treillage_gptq::GroupedLinear;
use treillage_trellis::PackedLinear;

use crate::Error;

/// Values that someone else owns: a vector, or a window into a memory-mapped file.
pub type Shared<T> = Arc<dyn AsRef<[T]> + Send + Sync>;

/// A row-major matrix in the type it is stored in.
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
}

/// A dense weight matrix `[rows, cols]`, row-major: `[out_features, in_features]` for a linear, `[vocabulary,
/// hidden]` for an embedding.
#[derive(Clone)]
pub struct DenseWeights {
    rows: usize,
    cols: usize,
    data: DenseData,
}

impl DenseWeights {
    /// `data` as a matrix.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `data` holds `rows × cols` values.
    pub fn new(rows: usize, cols: usize, data: DenseData) -> Result<Self, Error> {
        Error::check_shape("values of a dense weight", rows * cols, data.len())?;
        Ok(Self { rows, cols, data })
    }

    /// Output features, or vocabulary.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features, or hidden width.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values, row-major.
    pub fn data(&self) -> &DenseData {
        &self.data
    }

    /// Row `row` as f32.
    pub fn row(&self, row: usize) -> Vec<f32> {
        self.rows_f32(row..row + 1)
    }

    /// Rows `rows` as f32, row-major.
    pub fn rows_f32(&self, rows: Range<usize>) -> Vec<f32> {
        let span = rows.start * self.cols..rows.end * self.cols;
        match &self.data {
            DenseData::F32(v) => (**v).as_ref()[span].to_vec(),
            DenseData::F16(v) => (**v).as_ref()[span].iter().map(|x| x.to_f32()).collect(),
            DenseData::Bf16(v) => (**v).as_ref()[span].iter().map(|x| x.to_f32()).collect(),
        }
    }
}

/// The logical size of a linear `y = x Wᵀ`, before any padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearShape {
    /// Width of `x`.
    pub in_features: usize,
    /// Width of `y`.
    pub out_features: usize,
}

impl LinearShape {
    /// Number of weights.
    pub fn weights(self) -> usize {
        self.in_features * self.out_features
    }
}

/// What a linear layer is loaded from.
#[derive(Clone)]
pub enum LinearWeights {
    /// `[out_features, in_features]`, with an optional bias of `out_features`.
    Dense {
        /// The matrix.
        weight: DenseWeights,
        /// Added to the output.
        bias: Option<Vec<f32>>,
    },
    /// Trellis codes, both axes padded to a multiple of 128.
    Trellis(Arc<PackedLinear>),
    /// Codes with a scale per group, unpadded.
    Grouped(Arc<GroupedLinear>),
}

impl LinearWeights {
    /// Checks the stored size against the layer's, allowing the trellis its padding.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the axis that does not fit.
    pub fn check(&self, shape: LinearShape) -> Result<(), Error> {
        let (rows, cols, pad) = match self {
            LinearWeights::Dense { weight, .. } => (weight.rows(), weight.cols(), 1),
            LinearWeights::Trellis(packed) => (packed.out_features(), packed.in_features(), 128),
            LinearWeights::Grouped(grouped) => (grouped.out_features(), grouped.in_features(), 1),
        };
        Error::check_shape(
            "output features",
            shape.out_features.next_multiple_of(pad),
            rows,
        )?;
        Error::check_shape(
            "input features",
            shape.in_features.next_multiple_of(pad),
            cols,
        )
    }
}

/// The three projections of a SwiGLU network: `down(silu(gate x) ∘ up x)`.
#[derive(Clone)]
pub struct SwiGlu<L> {
    /// hidden → intermediate, inside the nonlinearity.
    pub gate: L,
    /// hidden → intermediate.
    pub up: L,
    /// intermediate → hidden.
    pub down: L,
}

impl<L> SwiGlu<L> {
    /// Applies `f` to each projection.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<M, E>(self, mut f: impl FnMut(L) -> Result<M, E>) -> Result<SwiGlu<M>, E> {
        Ok(SwiGlu {
            gate: f(self.gate)?,
            up: f(self.up)?,
            down: f(self.down)?,
        })
    }

    /// The projections with the names that checkpoints use.
    pub fn named(&self) -> [(&'static str, &L); 3] {
        [
            ("gate_proj", &self.gate),
            ("up_proj", &self.up),
            ("down_proj", &self.down),
        ]
    }
}
