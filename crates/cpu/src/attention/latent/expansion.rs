//! The linear that makes keys and values of latents.

use std::sync::Arc;

use half::f16;
use treillage_backend::{DenseData, DenseWeights, Error, LatentSpec, LinearWeights};

use crate::moments::Moments;

/// The expansion of latents, for both of its uses: to make keys and values, and to take queries to the latents' side and
/// what they find there back.
///
/// Weights that are dense stay in their type; those that are codes become f16, `2 · heads · (nope_dim + value_dim) · rank`
/// bytes: whole matrices are read for every token, in either direction, and codes can be decoded in one only.
pub struct Expansion {
    /// Head by head `[rank, nope_dim]`: the transposed rows of its keys.
    pub(super) keys: DenseWeights,
    /// Head by head `[value_dim, rank]`.
    pub(super) values: DenseWeights,
    pub(super) spec: LatentSpec,
    watch: Option<Moments>,
}

impl Expansion {
    pub(crate) fn new(weights: LinearWeights, spec: &LatentSpec) -> Result<Self, Error> {
        spec.check()?;
        let shape = spec.expansion();
        weights.check(shape)?;
        let halves = |values: Vec<f32>| {
            let values: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
            DenseData::F16(Arc::new(values))
        };
        let data = match weights {
            LinearWeights::Dense { weight, bias } => {
                Error::check_shape("bias of an expansion", 0, bias.map_or(0, |b| b.len()))?;
                weight.data().clone()
            }
            LinearWeights::Grouped(grouped) => halves(grouped.dequantize()),
            LinearWeights::Trellis(packed) => {
                // Column-major [in, out] is row-major [out, in]; padding is left out.
                let weights = packed.dequantize();
                let rows = weights.as_slice().chunks_exact(packed.in_features());
                let rows = rows.take(shape.out_features);
                halves(rows.flat_map(|row| &row[..spec.rank]).copied().collect())
            }
        };
        let (keys, values) = match data {
            DenseData::F32(rows) => {
                let (keys, values) = split((*rows).as_ref(), spec);
                (DenseData::F32(keys), DenseData::F32(values))
            }
            DenseData::F16(rows) => {
                let (keys, values) = split((*rows).as_ref(), spec);
                (DenseData::F16(keys), DenseData::F16(values))
            }
            DenseData::Bf16(rows) => {
                let (keys, values) = split((*rows).as_ref(), spec);
                (DenseData::Bf16(keys), DenseData::Bf16(values))
            }
        };
        Ok(Self {
            keys: DenseWeights::new(spec.heads * spec.rank, spec.nope_dim, keys)?,
            values: DenseWeights::new(spec.heads * spec.value_dim, spec.rank, values)?,
            spec: *spec,
            watch: None,
        })
    }

    /// From now on adds the latents of new tokens to `moments`.
    pub(crate) fn watch(&mut self, moments: &Moments) -> Result<(), Error> {
        Error::check_shape("moments of latents", self.spec.rank, moments.width())?;
        self.watch = Some(moments.clone());
        Ok(())
    }

    /// Where it adds them.
    pub(super) fn watched(&self) -> Option<&Moments> {
        self.watch.as_ref()
    }
}

/// Rows of keys, transposed, and rows of values.
fn split<T: Copy + Send + Sync + 'static>(
    rows: &[T],
    spec: &LatentSpec,
) -> (Arc<Vec<T>>, Arc<Vec<T>>) {
    let LatentSpec { nope_dim, rank, .. } = *spec;
    let mut keys = Vec::with_capacity(spec.heads * rank * nope_dim);
    let mut values = Vec::with_capacity(spec.heads * rank * spec.value_dim);
    for head in rows.chunks_exact((nope_dim + spec.value_dim) * rank) {
        let (of_keys, of_values) = head.split_at(nope_dim * rank);
        for column in 0..rank {
            keys.extend((0..nope_dim).map(|row| of_keys[row * rank + column]));
        }
        values.extend_from_slice(of_values);
    }
    (Arc::new(keys), Arc::new(values))
}
