//! Tables of token embeddings.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{DenseData, DenseWeights, Error};

use super::WORKGROUP;
use crate::context::Constant;
use crate::{Context, Slice, Tensor, Work};

/// A table of token embeddings, in the type that it is stored in.
#[derive(Debug)]
pub struct Embedding {
    table: Slice,
    format: Constant,
    per_word: u32,
    vocabulary: usize,
    width: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    width: u32,
    vocabulary: u32,
}

impl Embedding {
    pub(crate) fn new(context: &Context, table: &DenseWeights) -> Result<Self, Error> {
        let (bytes, format, per_word): (&[u8], _, _) = match table.data() {
            DenseData::F32(v) => (bytemuck::cast_slice((**v).as_ref()), "f32", 1),
            DenseData::F16(v) => (bytemuck::cast_slice((**v).as_ref()), "f16", 2),
            DenseData::Bf16(v) => (bytemuck::cast_slice((**v).as_ref()), "bf16", 2),
        };
        if !table.cols().is_multiple_of(per_word as usize) {
            return Err(Error::Device(format!(
                "an embedding of {} values in {format}: GPU kernels read them in pairs",
                table.cols()
            )));
        }
        Ok(Self {
            table: context.slabs.put("the embedding", bytes)?,
            format: format.into(),
            per_word,
            vocabulary: table.rows(),
            width: table.cols(),
        })
    }

    pub(crate) fn embed(&self, context: &Context, ids: &[u32]) -> Result<Tensor, Error> {
        let vocabulary = self.vocabulary;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Token { id, vocabulary });
        }
        if ids.is_empty() {
            return Ok(context.tensor(0, self.width)?);
        }
        let tokens = context.bring(ids)?;
        self.embed_on_device(context, &tokens.slice(), ids.len())
    }

    /// Rows of tokens that never left the device: `rows` ids in `tokens`.
    pub(crate) fn embed_on_device(
        &self,
        context: &Context,
        tokens: &Slice,
        rows: usize,
    ) -> Result<Tensor, Error> {
        let out = context.tensor(rows, self.width)?;
        let params = Params {
            width: self.width as u32,
            vocabulary: self.vocabulary as u32,
        };
        let words = params.width / self.per_word;
        context.run_for(
            // Of the table, a row for each token.
            Work {
                bytes: out.slice().size() + 4 * u64::from(words) * rows as u64,
                operations: 0,
            },
            "embed",
            &[("WG", WORKGROUP.into()), ("FORMAT", self.format)],
            &[&self.table, tokens, &out.slice()],
            &params,
            [words.div_ceil(WORKGROUP), rows as u32, 1],
        )?;
        Ok(out)
    }
}
