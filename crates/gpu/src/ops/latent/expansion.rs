//! The linear that makes keys and values of latents.

use half::f16;
use treillage_backend::{DenseData, Error, LatentSpec, LinearWeights};

use crate::moments::Moments;
use crate::{Context, Slice};

/// Latents are padded with zeros to a multiple of this, columns of matrices too.
pub(super) const COLUMNS: usize = 64;

/// What latents become: of the linear that makes keys and values of them, both in f16, `2 · heads · (nope_dim + value_dim) · rank`
/// bytes, whatever it was stored as. It is read whole for every token.
#[derive(Debug)]
pub struct Expansion {
    pub(super) spec: LatentSpec,
    /// `[heads, nope_dim, rank]`, columns padded.
    pub(super) keys: Slice,
    /// `[heads, rank, value_dim]`, columns padded.
    pub(super) values: Slice,
    /// Where it adds the latents that it reads.
    pub(super) watch: Option<Moments>,
}

impl Expansion {
    pub(crate) fn new(
        context: &Context,
        weights: &LinearWeights,
        spec: &LatentSpec,
    ) -> Result<Self, Error> {
        spec.check()?;
        weights.check(spec.expansion())?;
        let LatentSpec {
            nope_dim,
            value_dim,
            rank,
            ..
        } = *spec;
        let rows = rows(weights, spec)?;
        let (wide, narrow) = (padded(rank), padded(value_dim));
        let mut keys = vec![f16::ZERO; spec.heads * nope_dim * wide];
        let mut values = vec![f16::ZERO; spec.heads * rank * narrow];
        for (head, rows) in rows.chunks_exact((nope_dim + value_dim) * rank).enumerate() {
            let (of_keys, of_values) = rows.split_at(nope_dim * rank);
            for (i, row) in of_keys.chunks_exact(rank).enumerate() {
                keys[(head * nope_dim + i) * wide..][..rank].copy_from_slice(row);
            }
            for (column, row) in of_values.chunks_exact(rank).enumerate() {
                for (i, value) in row.iter().enumerate() {
                    values[(head * rank + i) * narrow + column] = *value;
                }
            }
        }
        let put = |halves: &[f16]| {
            context
                .slabs
                .put("an expansion of latents", bytemuck::cast_slice(halves))
        };
        Ok(Self {
            spec: *spec,
            keys: put(&keys)?,
            values: put(&values)?,
            watch: None,
        })
    }

    /// From now on it adds the normed latents of new tokens to `moments`.
    pub(crate) fn watch(&mut self, moments: &Moments) -> Result<(), Error> {
        Error::check_shape("width of moments", self.spec.rank, moments.width())?;
        self.watch = Some(moments.clone());
        Ok(())
    }
}

/// Columns of a matrix as they are stored.
pub(super) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(COLUMNS)
}

/// Rows of an expansion in half precision, `[heads · (nope_dim + value_dim), rank]`.
fn rows(weights: &LinearWeights, spec: &LatentSpec) -> Result<Vec<f16>, Error> {
    let halves = |values: &[f32]| values.iter().copied().map(f16::from_f32).collect();
    Ok(match weights {
        LinearWeights::Dense { weight, bias } => {
            let bias = bias.as_ref().map_or(0, Vec::len);
            Error::check_shape("bias of an expansion", 0, bias)?;
            match weight.data() {
                DenseData::F32(values) => halves((**values).as_ref()),
                DenseData::F16(values) => (**values).as_ref().to_vec(),
                DenseData::Bf16(_) => halves(&weight.rows_f32(0..weight.rows())),
            }
        }
        LinearWeights::Grouped(grouped) => halves(&grouped.dequantize()),
        LinearWeights::Trellis(packed) => {
            // Column-major [in, out] is row-major [out, in]; padding is left out.
            let weights = packed.dequantize();
            let rows = weights.as_slice().chunks_exact(packed.in_features());
            let rows = rows.take(spec.expansion().out_features);
            rows.flat_map(|row| &row[..spec.rank])
                .map(|&x| f16::from_f32(x))
                .collect()
        }
    })
}
