//! Attention of few new tokens: workgroups share the context, and one token takes a single kernel.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{AttentionSpec, Error};

use super::{KvCache, pairing, shape_constants};
use crate::{Context, Slice, Tensor};

/// Rows up to which the context is split over workgroups: more of them fill a device by themselves.
pub(super) const MAX_ROWS: usize = 4;
/// Query heads to a head of keys that the kernels have registers for.
const MAX_GROUP: usize = 16;
/// Positions that a part of the context has at the least.
const MIN_SPLIT: usize = 32;
/// Parts of the context at the most: with the heads, more workgroups than any device runs at once.
const MAX_SPLITS: usize = 64;

/// Lanes of a workgroup for heads of this size: as many as the device has workgroup memory for; `None` if it has too little
/// for any, or there are too many query heads to a head of keys.
pub(super) fn lanes(context: &Context, spec: &AttentionSpec, cache: &KvCache) -> Option<u32> {
    let group = spec.heads / spec.kv_heads;
    let most = context.gpu().limits().max_compute_workgroup_storage_size as usize;
    let fours = group.div_ceil(4);
    [256, 128, 64]
        .into_iter()
        .find(|&lanes| {
            // Queries and weights in fours; a key; what sums go through.
            let fits = (cache.padded + lanes) * fours * 16 + cache.padded * 4 + lanes * 16;
            fits <= most && group <= MAX_GROUP
        })
        .map(|lanes| lanes as u32)
}

/// How many parts a context has, and how many positions a part.
fn parts(tokens: usize) -> (usize, usize) {
    let most = tokens.div_ceil(MIN_SPLIT).min(MAX_SPLITS);
    let per_split = tokens.div_ceil(most).next_multiple_of(MIN_SPLIT);
    (tokens.div_ceil(per_split), per_split)
}

/// One token, all in one kernel: norms and rotates its heads, appends its key and value, attends.
pub(super) fn step(
    context: &Context,
    [q, k, v]: [&Tensor; 3],
    spec: &AttentionSpec,
    cache: &KvCache,
    norms: Option<(Slice, f32)>,
    lanes: u32,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        heads: u32,
        capacity: u32,
        position: u32,
        splits: u32,
        per_split: u32,
        scale: f32,
        dims: u32,
        epsilon: f32,
    }
    let (splits, per_split) = parts(cache.len + 1);
    let values = q.width() * splits;
    // Behind the parts, if there are several, the largest score and the sum of weights of each.
    let stats = if splits == 1 {
        0
    } else {
        2 * spec.heads * splits
    };
    let given = context.tensor(1, values + stats)?;
    let normed = norms.is_some();
    let (weights, epsilon) = norms.unwrap_or_else(|| (cache.table.turns.clone(), 0.0));
    let params = Params {
        heads: spec.heads as u32,
        capacity: cache.room as u32,
        position: cache.len as u32,
        splits: splits as u32,
        per_split: per_split as u32,
        scale: spec.scale,
        dims: spec.rope.dims as u32,
        epsilon,
    };
    let [dim, group] = shape_constants(spec, cache);
    context.run_for(
        cache.attending(&[q, k, v, &given], 1),
        "attention_step",
        &[
            dim,
            group,
            ("WG", lanes.into()),
            ("NORM", normed.into()),
            ("PAIRING", pairing(spec)),
            ("REDUCE", context.reduce()),
        ],
        &[
            &q.slice(),
            &k.slice(),
            &v.slice(),
            &weights,
            &cache.table.turns,
            &cache.keys,
            &cache.values,
            &given.slice(),
        ],
        &params,
        [params.splits, spec.kv_heads as u32, 1],
    )?;
    if splits == 1 {
        return Ok(given);
    }
    let given = given.slice();
    let (values, stats) = (4 * values as u64, 4 * stats as u64);
    combine(
        context,
        [&given.range(0, values), &given.range(values, stats)],
        spec,
        cache,
        (1, splits),
    )
}

/// Few queries: workgroups share the context.
pub(super) fn split(
    context: &Context,
    q: &Tensor,
    spec: &AttentionSpec,
    cache: &KvCache,
    lanes: u32,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        heads: u32,
        capacity: u32,
        position: u32,
        splits: u32,
        per_split: u32,
        scale: f32,
    }
    let (splits, per_split) = parts(cache.len + q.rows());
    let given = context.tensor(q.rows() * splits, q.width())?;
    let stats = context.tensor(q.rows() * splits, 2 * spec.heads)?;
    let params = Params {
        heads: spec.heads as u32,
        capacity: cache.room as u32,
        position: cache.len as u32,
        splits: splits as u32,
        per_split: per_split as u32,
        scale: spec.scale,
    };
    let [dim, group] = shape_constants(spec, cache);
    context.run_for(
        cache.attending(&[q, &given, &stats], q.rows()),
        "attention_decode",
        &[
            dim,
            group,
            ("WG", lanes.into()),
            ("REDUCE", context.reduce()),
        ],
        &[
            &q.slice(),
            &cache.keys,
            &cache.values,
            &given.slice(),
            &stats.slice(),
        ],
        &params,
        [params.splits, spec.kv_heads as u32, q.rows() as u32],
    )?;
    if splits == 1 {
        return Ok(given);
    }
    combine(
        context,
        [&given.slice(), &stats.slice()],
        spec,
        cache,
        (q.rows(), splits),
    )
}

/// What the parts of the context gave, as one result.
fn combine(
    context: &Context,
    [parts, stats]: [&Slice; 2],
    spec: &AttentionSpec,
    cache: &KvCache,
    (rows, splits): (usize, usize),
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        heads: u32,
        splits: u32,
    }
    let out = context.tensor(rows, spec.heads * cache.padded)?;
    let params = Params {
        heads: spec.heads as u32,
        splits: splits as u32,
    };
    let [dim, _] = shape_constants(spec, cache);
    context.run(
        "attention_combine",
        &[dim],
        &[parts, stats, &out.slice()],
        &params,
        [params.heads, rows as u32, 1],
    )?;
    Ok(out)
}
