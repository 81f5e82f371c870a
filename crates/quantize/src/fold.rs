//! The original in another basis, and yet the same model.

use std::collections::HashMap;

use half::{bf16, f16};
use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};
use treillage_backend::{DenseWeights, LinearShape, LinearWeights};
use treillage_checkpoint::{Checkpoint, DenseData, DenseTensor, StoredLinear};
use treillage_gptq::Rotation;
use treillage_linalg::hadamard::{fwht, rotate_columns, rotate_rows};
use treillage_model::{
    Weights, dense_weights,
    plan::{EMBEDDING, LinearPlan, ModelPlan, NormPlan, Role, Space},
};

use crate::{Error, rotation};

/// By what block rotations a model's own activations are replaced: rotations that cost nothing when it runs, because
/// the weights around them take them up (QuaRot, arXiv 2404.00456).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Blocks", into = "Blocks")]
pub struct Fold {
    /// Of the residual stream. With [`Rotation::None`] only the gains of the norms move into the linears behind them;
    /// `None` leaves the model as it is.
    pub residual: Option<Rotation>,
    /// Of the values of attention, block by block; not rotated where the list ends.
    pub values: Vec<Rotation>,
}

impl Fold {
    /// The rotation of what `linear` of block `block` reads; the head's block is the one after the last.
    pub fn of(&self, linear: &LinearPlan, block: usize) -> Rotation {
        self.of_space(linear.reads(), block)
    }

    fn of_space(&self, space: Space, block: usize) -> Rotation {
        match space {
            Space::Residual => self.residual.unwrap_or_default(),
            Space::Values => self.values.get(block).copied().unwrap_or_default(),
            Space::Fixed => Rotation::None,
        }
    }
}

/// A [`Fold`] in a file: sizes of blocks, a block of 1 being no rotation.
#[derive(Serialize, Deserialize)]
struct Blocks {
    residual: Option<usize>,
    values: Vec<usize>,
}

impl From<Fold> for Blocks {
    fn from(fold: Fold) -> Self {
        Self {
            residual: fold.residual.map(rotation::block),
            values: fold.values.into_iter().map(rotation::block).collect(),
        }
    }
}

impl From<Blocks> for Fold {
    fn from(blocks: Blocks) -> Self {
        Self {
            residual: blocks.residual.map(rotation::of_block),
            values: blocks.values.into_iter().map(rotation::of_block).collect(),
        }
    }
}

/// A checkpoint whose residual stream and attention values are rotated as a [`Fold`] says. It computes the same logits.
///
/// With `R` the rotation of the residual stream, which is its own inverse, and `g` the gain of the norm before them,
/// linears that read the stream become `W diag(g) R`, those that write to it `R W` with bias `R b`, the embedding `E R`
/// and the norms' gains ones: the norm of a rotated vector is the rotated norm. Values are rotated by the linear that
/// makes them and, head by head, rotated back by the one that reads them. A head tied to the embedding becomes one of
/// its own, as only it takes the final gain up.
///
/// Tensors are folded in f32 and rounded to the type that they are stored in; those that do not change are not touched.
pub struct Folded<'a> {
    source: &'a Checkpoint,
    fold: Fold,
    /// Every linear, those that are kept and the head included, with the block it is in.
    linears: HashMap<String, (LinearPlan, usize)>,
    /// Norms whose gain a linear takes up.
    norms: HashMap<String, NormPlan>,
}

impl<'a> Folded<'a> {
    /// `source`, whose plan is `plan`, folded.
    ///
    /// # Errors
    /// [`Error::Rotation`] naming a linear that a rotation does not fit.
    pub fn new(source: &'a Checkpoint, plan: &ModelPlan, fold: Fold) -> Result<Self, Error> {
        let head = (&plan.head, plan.blocks.len());
        let blocks = plan.blocks.iter().flat_map(|block| {
            let linears = block.linears.iter().chain(&block.kept_linears);
            linears.map(|linear| (linear, block.index))
        });
        let linears: Vec<(&LinearPlan, usize)> = blocks.chain([head]).collect();
        for &(linear, block) in &linears {
            // Values are rotated head by head.
            let width = match (linear.reads(), plan.value_dim) {
                (Space::Values, Some(head_dim)) => head_dim,
                _ => linear.shape.in_features,
            };
            rotation::check(fold.of(linear, block), &linear.prefix, width)?;
        }
        Ok(Self {
            source,
            fold,
            norms: linears
                .iter()
                .filter_map(|(linear, _)| linear.norm.clone())
                .map(|norm| (norm.name.clone(), norm))
                .collect(),
            linears: linears
                .into_iter()
                .map(|(linear, block)| (linear.prefix.clone(), (linear.clone(), block)))
                .collect(),
        })
    }

    /// What is folded.
    pub fn source(&self) -> &'a Checkpoint {
        self.source
    }

    /// By what.
    pub fn fold(&self) -> &Fold {
        &self.fold
    }

    /// The tensor `name`, folded.
    ///
    /// # Errors
    /// As [`Checkpoint::dense`].
    pub fn dense(&self, name: &str) -> Result<DenseTensor, Error> {
        match name.strip_suffix(".weight") {
            Some(prefix) if self.linears.contains_key(prefix) => Ok(self.linear(prefix)?.0),
            _ => self.folded_tensor(self.source.dense(name)?),
        }
    }

    /// The weight and the bias of a linear of the plan, folded. A tied head that is not stored is the embedding.
    ///
    /// # Errors
    /// [`Error::AlreadyQuantized`], and as [`Checkpoint::linear`].
    pub(crate) fn linear(&self, prefix: &str) -> Result<(DenseTensor, Option<Vec<f32>>), Error> {
        let Some((plan, block)) = self.linears.get(prefix) else {
            let tensor = self.source.dense(&format!("{prefix}.weight"))?;
            return Ok((tensor, None));
        };
        let (weight, bias) = self.original(plan)?;
        let gain = match (&plan.norm, self.fold.residual) {
            (Some(norm), Some(_)) => {
                let stored = self.source.vector(&norm.name, plan.shape.in_features)?;
                Some(norm.gains(stored))
            }
            _ => None,
        };
        let read = self.fold.of(plan, *block);
        let written = self.fold.of_space(plan.writes(), *block);
        if gain.is_none() && read == Rotation::None && written == Rotation::None {
            return Ok((weight, bias));
        }
        let LinearShape {
            in_features,
            out_features,
        } = plan.shape;
        let weight = edited(&weight, &format!("{prefix}.weight"), |values| {
            // Row-major `[out, in]` is column-major `(in, out)`.
            let mut matrix = DMatrix::from_vec(in_features, out_features, values);
            if let Some(gain) = &gain {
                for mut weights in matrix.column_iter_mut() {
                    weights.iter_mut().zip(gain).for_each(|(w, g)| *w *= g);
                }
            }
            if let Rotation::Block(block) = read {
                rotate_rows(&mut matrix, block);
            }
            if let Rotation::Block(block) = written {
                rotate_columns(&mut matrix, block);
            }
            matrix.data.into()
        })?;
        let bias = bias.map(|bias| rotated(bias, written));
        Ok((weight, bias))
    }

    fn original(&self, plan: &LinearPlan) -> Result<(DenseTensor, Option<Vec<f32>>), Error> {
        let LinearPlan { prefix, shape, .. } = plan;
        let (rows, cols) = (shape.out_features, shape.in_features);
        if self.is_tied(plan) && !self.source.has_linear(prefix) {
            return Ok((self.source.matrix(EMBEDDING, rows, cols)?, None));
        }
        match self.source.linear(prefix, cols, rows)? {
            StoredLinear::Dense { weight, bias } => Ok((weight, bias)),
            _ => Err(Error::AlreadyQuantized(prefix.clone())),
        }
    }

    fn is_tied(&self, plan: &LinearPlan) -> bool {
        plan.role == Role::Head && self.source.config().tie_word_embeddings
    }

    /// A tensor that is no linear's.
    fn folded_tensor(&self, tensor: DenseTensor) -> Result<DenseTensor, Error> {
        match (self.fold.residual, self.norms.get(tensor.name())) {
            (Some(rotation), _) if tensor.name() == EMBEDDING => {
                edited(&tensor, EMBEDDING, |values| rotated(values, rotation))
            }
            (Some(_), Some(norm)) => edited(&tensor, tensor.name(), |gains| {
                vec![norm.neutral(); gains.len()]
            }),
            _ => Ok(tensor),
        }
    }

    /// `error` among those that a [`Weights`] may have.
    pub(crate) fn as_model_error(&self, error: Error) -> treillage_model::Error {
        match error {
            Error::Checkpoint(error) => error.into(),
            error => treillage_model::Error::File {
                path: self.source.dir().to_owned(),
                reason: error.to_string(),
            },
        }
    }
}

impl Weights for Folded<'_> {
    fn linear(
        &self,
        prefix: &str,
        shape: LinearShape,
    ) -> Result<LinearWeights, treillage_model::Error> {
        let (weight, bias) = Folded::linear(self, prefix).map_err(|e| self.as_model_error(e))?;
        let weight = dense_weights(&weight, shape.out_features, shape.in_features)?;
        Ok(LinearWeights::Dense { weight, bias })
    }

    fn dense(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<DenseWeights, treillage_model::Error> {
        let tensor = self.folded_tensor(self.source.matrix(name, rows, cols)?);
        dense_weights(&tensor.map_err(|e| self.as_model_error(e))?, rows, cols)
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, treillage_model::Error> {
        let values = self.source.vector(name, len)?;
        match (self.fold.residual, self.norms.get(name)) {
            (Some(_), Some(norm)) => Ok(vec![norm.neutral(); len]),
            _ => Ok(values),
        }
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, treillage_model::Error> {
        match shape {
            [len] => self.vector(name, *len),
            // Norms have one axis.
            _ => Ok(self.source.values(name, shape)?),
        }
    }

    fn has_linear(&self, prefix: &str) -> bool {
        let head = || {
            self.linears
                .get(prefix)
                .is_some_and(|(l, _)| self.is_tied(l))
        };
        self.source.has_linear(prefix) || (self.fold.residual.is_some() && head())
    }
}

/// `tensor` as `name` and with other values, in its own type.
pub(crate) fn edited(
    tensor: &DenseTensor,
    name: &str,
    edit: impl FnOnce(Vec<f32>) -> Vec<f32>,
) -> Result<DenseTensor, Error> {
    let values = edit(tensor.to_f32());
    let data: DenseData = match tensor.data() {
        DenseData::F32(_) => values.into(),
        DenseData::F16(_) => {
            let values = values.into_iter().map(f16::from_f32);
            values.collect::<Vec<_>>().into()
        }
        DenseData::Bf16(_) => {
            let values = values.into_iter().map(bf16::from_f32);
            values.collect::<Vec<_>>().into()
        }
    };
    Ok(DenseTensor::new(name, tensor.shape(), data)?)
}

fn rotated(mut values: Vec<f32>, rotation: Rotation) -> Vec<f32> {
    if let Rotation::Block(block) = rotation {
        fwht(&mut values, block);
    }
    values
}
