//! Causal grouped-query attention over a cache in f16 or eight bits.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{AttentionInputs, AttentionSpec, Error, Room};

use super::WORKGROUP;
use super::norm::Norm;
use super::rope::{RopeTable, RopeTables, pairing};
use super::rows::resize;
use crate::buffer::BufferId;
use crate::context::{Constant, flat_grid};
use crate::{CacheBits, Context, Slice, Tensor, Work};

mod decode;

/// Widths of a head that kernels exist for; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 3] = [64, 128, 256];
/// Capacities are multiples of this, so that kernels may read whole tiles.
const TILE: usize = 64;

/// Keys and values of one layer, for one sequence, in f16 or eight bits: `[kv_heads, head_dim / 8, capacity, 8]` and `[kv_heads,
/// capacity, head_dim]`, and for eight bits behind the keys `[kv_heads, capacity, 2]` f32, the scales of both. All of the memory is
/// taken when the cache is made, so that what kernels bind stays where it is.
#[derive(Debug)]
pub(crate) struct KvCache {
    spec: AttentionSpec,
    /// Tokens that fit, as asked for, and those that are in it.
    pub(super) room: Room,
    /// Tokens that there is memory for.
    capacity: usize,
    /// Width of a head as kernels see it.
    padded: usize,
    bits: CacheBits,
    keys: Slice,
    values: Slice,
    table: RopeTable,
    norms: Option<HeadNorms>,
}

/// The norms of query and key heads, `[2, head_dim]`.
#[derive(Debug)]
struct HeadNorms {
    of: [(BufferId, u64, u64); 2],
    weights: Slice,
    epsilon: f32,
}

impl KvCache {
    pub(crate) fn new(
        context: &Context,
        tables: &RopeTables,
        spec: &AttentionSpec,
        capacity: usize,
    ) -> Result<Self, Error> {
        spec.check()?;
        let Some(padded) = HEAD_DIMS.into_iter().find(|&dim| dim >= spec.head_dim) else {
            return Err(Error::Device(format!(
                "heads of {} values: GPU kernels take at most {}",
                spec.head_dim,
                HEAD_DIMS[HEAD_DIMS.len() - 1]
            )));
        };
        let room = Room::new(capacity);
        let capacity = capacity.max(1).next_multiple_of(TILE);
        let gpu = context.gpu();
        let bits = gpu.options().cache_bits;
        let places = (spec.kv_heads * capacity) as u64;
        let (bytes, scales) = match bits {
            CacheBits::Eight => (padded as u64 * places, 8 * places),
            CacheBits::Sixteen => (2 * padded as u64 * places, 0),
        };
        Ok(Self {
            spec: *spec,
            room,
            capacity,
            padded,
            bits,
            keys: gpu.buffer("the cache of keys", bytes + scales)?.slice(),
            values: gpu.buffer("the cache of values", bytes)?.slice(),
            table: tables.get(context, spec.rope, capacity)?,
            norms: None,
        })
    }

    /// The constant `CACHE` of kernels.
    fn form(&self) -> Constant {
        Constant::Word(match self.bits {
            CacheBits::Eight => "i8",
            CacheBits::Sixteen => "f16",
        })
    }

    /// Fails unless this cache is for `spec` and `tokens` more fit.
    fn check(&self, spec: &AttentionSpec, tokens: usize) -> Result<(), Error> {
        Error::check_shape("query heads of a cache", self.spec.heads, spec.heads)?;
        Error::check_shape("key heads of a cache", self.spec.kv_heads, spec.kv_heads)?;
        Error::check_shape("head width of a cache", self.spec.head_dim, spec.head_dim)?;
        self.room.check(tokens)
    }

    /// What it takes to move `tensors`, and keys and values of `tokens` tokens to or from the cache.
    fn moving(&self, tensors: &[&Tensor], tokens: usize) -> Work {
        let each = match self.bits {
            CacheBits::Eight => 2 * self.padded + 8,
            CacheBits::Sixteen => 4 * self.padded,
        };
        let cached = self.spec.kv_heads * each * tokens;
        let tensors: u64 = tensors.iter().map(|tensor| tensor.slice().size()).sum();
        Work {
            bytes: tensors + cached as u64,
            operations: 0,
        }
    }

    /// What it takes for `queries` to attend to the cache and to each other; `tensors` are moved.
    fn attending(&self, tensors: &[&Tensor], queries: usize) -> Work {
        // Each query sees what came before it, and itself.
        let seen = queries * self.room.len + queries * (queries + 1) / 2;
        Work {
            operations: (4 * self.spec.heads * self.padded * seen) as u64,
            ..self.moving(tensors, self.room.len + queries)
        }
    }

    /// The norms of heads side by side, as the kernel wants them: laid out once, for the layer that the cache belongs to.
    fn head_norms(
        &mut self,
        context: &Context,
        q: Option<&Norm>,
        k: Option<&Norm>,
    ) -> Result<Option<(Slice, f32)>, Error> {
        let (q, k) = match (q, k) {
            (None, None) => return Ok(None),
            (Some(q), Some(k)) if q.epsilon() == k.epsilon() => (q, k),
            _ => {
                let reason = "norms of queries and keys with one epsilon, or neither";
                return Err(Error::Device(format!("GPU kernels take {reason}")));
            }
        };
        let (dim, padded) = (self.spec.head_dim, self.padded);
        for norm in [q, k] {
            Error::check_shape("width of an RMS norm", norm.values().len(), dim)?;
        }
        let of = [q.key(), k.key()];
        let known = self.norms.take().filter(|norms| norms.of == of);
        let norms = match known {
            Some(norms) => norms,
            None => {
                // The kernel takes the mean over the padded width; of the zeros there it must not know.
                let share = (dim as f32) / (padded as f32);
                let mut weights = vec![0.0; 2 * padded];
                for (place, norm) in weights.chunks_exact_mut(padded).zip([q, k]) {
                    for (weight, value) in place.iter_mut().zip(norm.values()) {
                        *weight = value * share.sqrt();
                    }
                }
                HeadNorms {
                    of,
                    weights: context
                        .slabs
                        .put("norms of heads", bytemuck::cast_slice(&weights))?,
                    epsilon: q.epsilon() * share,
                }
            }
        };
        let found = (norms.weights.clone(), norms.epsilon);
        self.norms = Some(norms);
        Ok(Some(found))
    }
}

/// What attention reads.
pub(crate) type Attention<'a> = AttentionInputs<'a, Tensor, Norm>;

/// Attention of new tokens to the cache and to each other.
pub(crate) fn attend(
    context: &Context,
    inputs: &Attention<'_>,
    spec: &AttentionSpec,
    cache: &mut KvCache,
) -> Result<Tensor, Error> {
    let AttentionInputs { q, k, v, .. } = *inputs;
    let narrow = spec.kv_heads * spec.head_dim;
    q.check_width("width of queries", spec.query_width())?;
    k.check_width("width of keys", narrow)?;
    v.check_width("width of values", narrow)?;
    Error::check_shape("tokens of keys", q.rows(), k.rows())?;
    Error::check_shape("tokens of values", q.rows(), v.rows())?;
    cache.check(spec, q.rows())?;
    let norms = cache.head_norms(context, inputs.q_norm, inputs.k_norm)?;

    let (dim, padded) = (spec.head_dim, cache.padded);
    let fit = |x: &Tensor, from: usize, to: usize| match from == to {
        true => Ok(x.clone()),
        false => resize(context, x, from, to),
    };
    let lanes = decode::lanes(context, spec, cache);
    let together = q.rows() == 1 && !context.guard.is_plain();
    let out = if let (true, Some(lanes)) = (together, lanes) {
        decode::step(context, [q, k, v], spec, cache, norms, lanes)?
    } else {
        let heads = [
            &fit(q, dim, padded)?,
            &fit(k, dim, padded)?,
            &fit(v, dim, padded)?,
        ];
        let rotated = append(context, heads, spec, cache, norms)?;
        match (q.rows(), lanes) {
            (..=decode::MAX_ROWS, Some(lanes)) => {
                decode::split(context, &rotated, heads[0], spec, cache, lanes)?
            }
            _ => {
                let out = tiled(context, &rotated, spec, cache)?;
                gate(context, out, heads[0], spec, cache)?
            }
        }
    };
    let out = fit(&out, padded, dim)?;
    cache.room.len += q.rows();
    Ok(out)
}

/// Norms and rotates heads of queries and keys, and appends keys and values to the cache. Gives the queries.
fn append(
    context: &Context,
    [q, k, v]: [&Tensor; 3],
    spec: &AttentionSpec,
    cache: &KvCache,
    norms: Option<(Slice, f32)>,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        heads: u32,
        kv_heads: u32,
        capacity: u32,
        position: u32,
        dims: u32,
        epsilon: f32,
    }
    let rotated = context.tensor(q.rows(), spec.heads * cache.padded)?;
    let normed = norms.is_some();
    let (weights, epsilon) = norms.unwrap_or_else(|| (cache.table.turns.clone(), 0.0));
    let params = Params {
        heads: spec.heads as u32,
        kv_heads: spec.kv_heads as u32,
        capacity: cache.capacity as u32,
        position: cache.room.len as u32,
        dims: spec.rope.dims as u32,
        epsilon,
    };
    context.run_for(
        cache.moving(&[q, k, v, &rotated], q.rows()),
        "rope_append",
        &[
            ("HEAD_DIM", (cache.padded as u32).into()),
            ("WG", (cache.padded as u32 / 2).into()),
            ("NORM", normed.into()),
            ("PAIRING", pairing(spec.rope)),
            ("GATED", spec.output_gate.into()),
            ("CACHE", cache.form()),
            ("REDUCE", context.reduce()),
        ],
        &[
            &q.slice(),
            &k.slice(),
            &v.slice(),
            &weights,
            &cache.table.turns,
            &rotated.slice(),
            &cache.keys,
            &cache.values,
        ],
        &params,
        [params.heads + 2 * params.kv_heads, q.rows() as u32, 1],
    )?;
    Ok(rotated)
}

/// `heads`, times sigmoids of the gates that `gates` has behind each query, if there are any.
fn gate(
    context: &Context,
    heads: Tensor,
    gates: &Tensor,
    spec: &AttentionSpec,
    cache: &KvCache,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        width: u32,
        count: u32,
    }
    if spec.output_gate {
        let params = Params {
            width: cache.padded as u32,
            count: heads.len() as u32,
        };
        context.run(
            "gate_heads",
            &[("WG", WORKGROUP.into())],
            &[&gates.slice(), &heads.slice()],
            &params,
            flat_grid(heads.len().div_ceil(WORKGROUP.into())),
        )?;
    }
    Ok(heads)
}

fn shape_constants(spec: &AttentionSpec, cache: &KvCache) -> [(&'static str, Constant); 3] {
    [
        ("CACHE", cache.form()),
        ("HEAD_DIM", (cache.padded as u32).into()),
        ("GROUP", ((spec.heads / spec.kv_heads) as u32).into()),
    ]
}

/// Many queries: workgroups share them.
fn tiled(
    context: &Context,
    q: &Tensor,
    spec: &AttentionSpec,
    cache: &KvCache,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        rows: u32,
        heads: u32,
        capacity: u32,
        position: u32,
        scale: f32,
    }
    const QUERIES: usize = 64;
    let out = context.tensor(q.rows(), q.width())?;
    let params = Params {
        rows: q.rows() as u32,
        heads: spec.heads as u32,
        capacity: cache.capacity as u32,
        position: cache.room.len as u32,
        scale: spec.scale,
    };
    let queries = q.rows() * (spec.heads / spec.kv_heads);
    context.run_for(
        cache.attending(&[q, &out], q.rows()),
        "attention_prefill",
        &shape_constants(spec, cache),
        &[&q.slice(), &cache.keys, &cache.values, &out.slice()],
        &params,
        [queries.div_ceil(QUERIES) as u32, spec.kv_heads as u32, 1],
    )?;
    Ok(out)
}
