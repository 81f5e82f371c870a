//! Causal attention over a cache: to keys and values of groups of heads here, to latents in `latent`.

mod cache;
mod kernel;
mod latent;
mod product;
mod rope;

use rayon::prelude::*;
use treillage_backend::{AttentionInputs, AttentionSpec, Error};
use treillage_trellis::lanes::{Isa, Kernel, Lanes};

pub(crate) use cache::KvCache;
use kernel::{Past, Queries, attend};
pub use latent::Expansion;
pub(crate) use latent::{LatentCache, latent_attention};
pub(crate) use rope::RopeTables;

use crate::blocks::{Blocks, Output};
use crate::math::sigmoid;
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
    check(inputs, spec)?;
    let (past, tokens) = (cache.len(), inputs.q.rows());
    cache.check(spec, tokens)?;

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
    let queries = arrange(inputs.q, spec, |query, token| {
        finish(inputs.q_norm, query, past + token);
        query.iter_mut().for_each(|x| *x *= spec.scale);
    });

    let group = spec.heads / spec.kv_heads;
    let mut out = Tensor::zeros(tokens, spec.heads * spec.head_dim);
    let output = Output {
        cols: out.cols(),
        values: out.values_mut(),
    };
    let mut blocks = Blocks::new(output, group * spec.head_dim);
    let step = (ROWS / group).max(1);
    let tasks: Vec<_> = blocks
        .iter_mut()
        .enumerate()
        .flat_map(|(head, rows)| {
            let steps = rows.chunks_mut(step).enumerate();
            steps.map(move |(i, rows)| (head, i * step, rows))
        })
        .collect();
    // Backwards: the last queries see the most keys, and no thread should be left alone with them at the end.
    tasks
        .into_par_iter()
        .rev()
        .with_max_len(1)
        .for_each(|(head, first, rows)| {
            let start = (head * tokens + first) * group * spec.head_dim;
            let queries = Queries {
                rows: &queries[start..][..rows.len() * group * spec.head_dim],
                group,
                first: past + first,
            };
            let keys = &cache.heads()[head];
            let attended = attend(isa, &queries, keys);
            let mut attended = attended.chunks_exact(keys.value_width());
            for (token, row) in (first..).zip(rows) {
                let heads = row.chunks_exact_mut(spec.head_dim).zip(&mut attended);
                for (member, (out, attended)) in heads.enumerate() {
                    out.copy_from_slice(&attended[..spec.head_dim]);
                    if spec.output_gate {
                        let query = 2 * (head * group + member) + 1;
                        let gate = &inputs.q.row(token)[query * spec.head_dim..][..spec.head_dim];
                        isa.run(Gate { out, gate });
                    }
                }
            }
        });
    Ok(out)
}

/// `out ∘ sigmoid(gate)`.
struct Gate<'a> {
    out: &'a mut [f32],
    gate: &'a [f32],
}

impl Kernel for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for (out, gate) in self.out.iter_mut().zip(self.gate) {
            *out *= sigmoid(*gate);
        }
    }
}

fn check(inputs: &AttentionInputs<'_, Tensor, Norm>, spec: &AttentionSpec) -> Result<(), Error> {
    let AttentionInputs { q, k, v, .. } = inputs;
    let (wide, narrow) = (spec.query_width(), spec.kv_heads * spec.head_dim);
    let sizes = [
        ("width of queries", wide, q.cols()),
        ("width of keys", narrow, k.cols()),
        ("width of values", narrow, v.cols()),
        ("tokens of keys", q.rows(), k.rows()),
        ("tokens of values", q.rows(), v.rows()),
    ];
    for (what, expected, found) in sizes {
        Error::check_shape(what, expected, found)?;
    }
    for norm in [inputs.q_norm, inputs.k_norm].into_iter().flatten() {
        norm.check(spec.head_dim)?;
    }
    Ok(())
}

/// Queries, those of one key head together: `[kv_heads, tokens, heads / kv_heads, head_dim]`, each finished by
/// `finish(query, token)`.
fn arrange(
    q: &Tensor,
    spec: &AttentionSpec,
    finish: impl Fn(&mut [f32], usize) + Sync,
) -> Vec<f32> {
    let (tokens, dim) = (q.rows(), spec.head_dim);
    let group = spec.heads / spec.kv_heads;
    let step = spec.query_width() / spec.heads;
    let mut queries = vec![0.0; tokens * spec.heads * dim];
    queries
        .par_chunks_exact_mut(dim)
        .enumerate()
        .with_min_len(MIN_HEADS)
        .for_each(|(i, query)| {
            let (kv_head, token, member) = (i / (tokens * group), i / group % tokens, i % group);
            let column = (kv_head * group + member) * step;
            query.copy_from_slice(&q.row(token)[column..][..dim]);
            finish(query, token);
        });
    queries
}
