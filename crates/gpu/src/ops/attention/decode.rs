//! Attention of few new tokens: workgroups share the context, and one token takes a single kernel.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{AttentionSpec, Error};

use super::super::rows::resize_into;
use super::{KvCache, gate, pairing, shape_constants};
use crate::{Context, Slice, Tensor};

/// Rows up to which the context is split over workgroups: more of them fill a device by themselves.
pub(super) const MAX_ROWS: usize = 4;
/// Query heads to a head of keys that the kernels have registers for.
const MAX_GROUP: usize = 16;
/// Positions that a part of the context has at the least.
const MIN_SPLIT: usize = 32;
/// Parts of the context at the most: with the heads, more workgroups than any device runs at once.
const MAX_SPLITS: usize = 64;
/// Parts that one workgroup adds up in less time than another dispatch takes, and positions that a part then has at the most: more,
/// and the work had better be shared by more.
const MAX_GATHERED: usize = 16;
const MAX_GATHERED_SIZE: usize = 64;

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

/// How a context is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    /// How many.
    count: usize,
    /// Positions of each; the last may have fewer.
    size: usize,
}

impl Parts {
    fn of(tokens: usize, most: usize) -> Self {
        let most = tokens.div_ceil(MIN_SPLIT).min(most);
        let size = tokens.div_ceil(most).next_multiple_of(MIN_SPLIT);
        Self {
            count: tokens.div_ceil(size),
            size,
        }
    }

    /// Those of one token's context, and whether the last workgroup to arrive adds up what they give.
    fn of_step(tokens: usize) -> (Self, bool) {
        let few = Self::of(tokens, MAX_GATHERED);
        match few.size <= MAX_GATHERED_SIZE {
            true => (few, true),
            false => (Self::of(tokens, MAX_SPLITS), false),
        }
    }
}

/// Queries, key and value of a token, padded, in one piece: as linears that share an input give them, or copied together.
struct Joint {
    all: Slice,
    starts: [u32; 3],
    /// Keeps copies lent.
    _copies: Vec<Tensor>,
}

impl Joint {
    fn new(
        context: &Context,
        heads: [&Tensor; 3],
        dim: usize,
        padded: usize,
    ) -> Result<Self, Error> {
        if dim == padded
            && let Some((all, starts)) = Tensor::joint(heads)
        {
            return Ok(Self {
                all,
                starts,
                _copies: Vec::new(),
            });
        }
        let widths = heads.map(|x| x.width() / dim * padded);
        let copies = context.tensors(1, &widths)?;
        for (x, copy) in heads.iter().zip(&copies) {
            resize_into(context, x, dim, padded, copy)?;
        }
        let joint = match &copies[..] {
            [q, k, v] => Tensor::joint([q, k, v]),
            _ => None,
        };
        let (all, starts) = joint
            .ok_or_else(|| Error::Device("heads of a token are too many to bind".to_owned()))?;
        Ok(Self {
            all,
            starts,
            _copies: copies,
        })
    }
}

/// One token, all in one kernel: norms and rotates its heads, appends its key and value, attends.
pub(super) fn step(
    context: &Context,
    heads: [&Tensor; 3],
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
        k_at: u32,
        v_at: u32,
        gathers: u32,
    }
    let joint = Joint::new(context, heads, spec.head_dim, cache.padded)?;
    let (parts, gathers) = Parts::of_step(cache.room.len + 1);
    let out = context.tensor(1, spec.heads * cache.padded)?;
    let values = out.width() * parts.count;
    // Behind the parts, the largest score and the sum of weights of each.
    let stats = 2 * spec.heads * parts.count;
    // As much for every token, so that all run in the same memory.
    let most = if gathers { MAX_GATHERED } else { MAX_SPLITS };
    let given = context.tensor(1, most * (out.width() + 2 * spec.heads))?;
    let normed = norms.is_some();
    let (weights, epsilon) = norms.unwrap_or_else(|| (cache.table.turns.clone(), 0.0));
    let [_, k_at, v_at] = joint.starts;
    let params = Params {
        heads: spec.heads as u32,
        capacity: cache.capacity as u32,
        position: cache.room.len as u32,
        splits: parts.count as u32,
        per_split: parts.size as u32,
        scale: spec.scale,
        dims: spec.rope.dims as u32,
        epsilon,
        k_at,
        v_at,
        gathers: gathers.into(),
    };
    let [q, k, v] = heads;
    let [form, dim, group] = shape_constants(spec, cache);
    context.run_for(
        cache.attending(&[q, k, v, &out], 1),
        "attention_step",
        &[
            form,
            dim,
            group,
            ("WG", lanes.into()),
            ("NORM", normed.into()),
            ("PAIRING", pairing(spec.rope)),
            ("GATED", spec.output_gate.into()),
            ("REDUCE", context.reduce()),
        ],
        &[
            &joint.all,
            &weights,
            &cache.table.turns,
            &cache.keys,
            &cache.values,
            &given.slice(),
            &out.slice(),
            &context.linears.counters(context.gpu(), spec.kv_heads)?,
        ],
        &params,
        [params.splits, spec.kv_heads as u32, 1],
    )?;
    if gathers {
        return Ok(out);
    }
    let given = given.slice();
    let (values, stats) = (4 * values as u64, 4 * stats as u64);
    combine(
        context,
        [&given.range(0, values), &given.range(values, stats)],
        &joint.all,
        spec,
        parts,
        &out,
    )?;
    Ok(out)
}

/// Few queries, rotated: workgroups share the context. `gates` is the tensor that has them, if there are any.
pub(super) fn split(
    context: &Context,
    q: &Tensor,
    gates: &Tensor,
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
    let parts = Parts::of(cache.room.len + q.rows(), MAX_SPLITS);
    let given = context.tensor(q.rows() * parts.count, q.width())?;
    let stats = context.tensor(q.rows() * parts.count, 2 * spec.heads)?;
    let params = Params {
        heads: spec.heads as u32,
        capacity: cache.capacity as u32,
        position: cache.room.len as u32,
        splits: parts.count as u32,
        per_split: parts.size as u32,
        scale: spec.scale,
    };
    let [form, dim, group] = shape_constants(spec, cache);
    context.run_for(
        cache.attending(&[q, &given, &stats], q.rows()),
        "attention_decode",
        &[
            form,
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
    if parts.count == 1 {
        return gate(context, given, gates, spec, cache);
    }
    let out = context.tensor(q.rows(), q.width())?;
    let given = [&given.slice(), &stats.slice()];
    combine(context, given, &gates.slice(), spec, parts, &out)?;
    Ok(out)
}

/// What the parts of the context gave, as one result, times sigmoids of gates if there are any, in `out`.
fn combine(
    context: &Context,
    [given, stats]: [&Slice; 2],
    gates: &Slice,
    spec: &AttentionSpec,
    parts: Parts,
    out: &Tensor,
) -> Result<(), Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        heads: u32,
        splits: u32,
    }
    let params = Params {
        heads: spec.heads as u32,
        splits: parts.count as u32,
    };
    let dim = (out.width() / spec.heads) as u32;
    context.run(
        "attention_combine",
        &[("HEAD_DIM", dim.into()), ("GATED", spec.output_gate.into())],
        &[given, stats, gates, &out.slice()],
        &params,
        [params.heads, out.rows() as u32, 1],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_the_context_and_none_is_empty() {
        for tokens in 1..20_000 {
            let (step, gathered) = Parts::of_step(tokens);
            for parts in [step, Parts::of(tokens, MAX_SPLITS)] {
                assert!(parts.count * parts.size >= tokens, "{tokens}: {parts:?}");
                assert!(
                    (parts.count - 1) * parts.size < tokens,
                    "{tokens}: {parts:?}"
                );
                assert!(parts.count <= MAX_SPLITS);
            }
            assert_eq!(gathered, tokens <= MAX_GATHERED * MAX_GATHERED_SIZE);
            assert!(!gathered || step.count <= MAX_GATHERED);
        }
    }
}
