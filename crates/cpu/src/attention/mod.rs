//! Causal grouped-query attention over a cache.

mod cache;
mod kernel;
mod product;
mod rope;

use rayon::prelude::*;
use treillage_backend::{AttentionInputs, AttentionSpec, Error};
use treillage_trellis::lanes::Isa;

pub use cache::KvCache;
use kernel::{Queries, attend};
pub(crate) use rope::RopeTables;

use crate::norm::Norm;
use crate::tensor::Tensor;

/// Rows of queries, tokens times heads that share keys, which a task attends with.
const ROWS: usize = 64;
/// Heads that a task normalises and rotates: fewer are not worth a thread.
const MIN_HEADS: usize = 64;

/// Attention of new tokens to the cache and to each other.
pub(crate) fn attention(
    isa: Isa,
    inputs: &AttentionInputs<'_, Tensor, Norm>,
    spec: &AttentionSpec,
    cache: &mut KvCache,
    tables: &RopeTables,
) -> Result<Tensor, Error> {
    let AttentionSpec {
        heads,
        kv_heads,
        head_dim,
        ..
    } = *spec;
    let tokens = inputs.q.rows();
    Error::check_shape("queries", heads * head_dim, inputs.q.cols())?;
    for (what, x) in [("keys", inputs.k), ("values", inputs.v)] {
        Error::check_shape(what, kv_heads * head_dim, x.cols())?;
        Error::check_shape("tokens", tokens, x.rows())?;
    }
    for norm in [inputs.q_norm, inputs.k_norm].into_iter().flatten() {
        norm.check(head_dim)?;
    }
    cache.check(spec, tokens)?;

    let past = cache.len();
    let table = tables.get(spec.rope, past + tokens);
    let finish = |norm: Option<&Norm>, head: &mut [f32], position: usize| {
        if let Some(norm) = norm {
            norm.apply_in_place(isa, head);
        }
        table.rotate(head, position);
    };
    cache.append(inputs.k.values(), inputs.v.values(), |key, position| {
        finish(inputs.k_norm, key, position);
    });

    let group = heads / kv_heads;
    // Queries of one key head lie together: `[kv_heads, tokens, group, head_dim]`.
    let mut queries = vec![0.0; heads * tokens * head_dim];
    queries
        .par_chunks_exact_mut(head_dim)
        .enumerate()
        .with_min_len(MIN_HEADS)
        .for_each(|(i, query)| {
            let (kv_head, token, member) = (i / (tokens * group), i / group % tokens, i % group);
            let column = (kv_head * group + member) * head_dim;
            query.copy_from_slice(&inputs.q.row(token)[column..][..head_dim]);
            finish(inputs.q_norm, query, past + token);
            for value in query {
                *value *= spec.scale;
            }
        });

    let step = (ROWS / group).max(1);
    let mut out = vec![0.0; tokens * heads * head_dim];
    let mut parts: Vec<&mut [f32]> = Vec::new();
    parts.resize_with(kv_heads * tokens, Default::default);
    for (i, part) in out.chunks_exact_mut(group * head_dim).enumerate() {
        parts[i % kv_heads * tokens + i / kv_heads] = part;
    }
    let tasks: Vec<_> = parts
        .chunks_mut(tokens.max(1))
        .enumerate()
        .flat_map(|(kv_head, parts)| {
            let steps = parts.chunks_mut(step).enumerate();
            steps.map(move |(i, parts)| (kv_head, i * step, parts))
        })
        .collect();
    // The last queries see the most keys: they come first, so that no thread is left with them at the end.
    tasks
        .into_par_iter()
        .rev()
        .with_max_len(1)
        .for_each(|(kv_head, first, parts)| {
            let rows = (kv_head * tokens + first) * group * head_dim;
            let queries = Queries {
                rows: &queries[rows..][..parts.len() * group * head_dim],
                group,
                first: past + first,
            };
            let head = &cache.heads()[kv_head];
            let attended = attend(isa, &queries, head);
            let attended = attended.chunks_exact(head.width());
            let outputs = parts.iter_mut().flat_map(|p| p.chunks_exact_mut(head_dim));
            for (out, attended) in outputs.zip(attended) {
                out.copy_from_slice(&attended[..head_dim]);
            }
        });
    Tensor::new(out, heads * head_dim)
}
