//! Causal multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, §2.1) over a cache of latents in f16. Queries are taken to the
//! latents' side, and what they find there back, so that the cache is keys and values of all heads at once.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{Error, LatentInputs, LatentSpec, Room};

use super::norm::Norm;
use super::rope::{RopeTable, RopeTables, pairing};
use super::{WORKGROUP, rows};
use crate::{Context, Slice, Tensor, Work};

mod expansion;

pub use expansion::Expansion;
use expansion::{COLUMNS, padded};

/// Rows up to which a kernel multiplies each by itself; more share what they read of the expansion.
const MAX_FEW: usize = 32;
/// Positions that a part of the context has at the least: what the kernel sees at once.
const POSITIONS: usize = 32;
/// Heads of a workgroup, which share what it reads. More of them read less and are slower: a workgroup then has more to do one thing
/// after another, and there are fewer.
const HEADS: usize = 4;
/// Parts of the context at the most, and workgroups that there should not be more of for its sake.
const MAX_SPLITS: usize = 64;
const MAX_SPLIT_GROUPS: usize = 1024;

/// Latents of one layer, for one sequence, in f16: `[capacity, width]`, a row's latent and then the part of its key that rotates. All of
/// the memory is taken when the cache is made, so that what kernels bind stays where it is.
#[derive(Debug)]
pub(crate) struct LatentCache {
    spec: LatentSpec,
    pub(super) room: Room,
    rows: Slice,
    table: RopeTable,
    /// Of a workgroup that attends.
    lanes: usize,
}

impl LatentCache {
    pub(crate) fn new(
        context: &Context,
        tables: &RopeTables,
        spec: &LatentSpec,
        capacity: usize,
    ) -> Result<Self, Error> {
        spec.check()?;
        let room = Room::new(capacity);
        let bytes = 2 * (capacity.max(1) * width(spec)) as u64;
        Ok(Self {
            spec: *spec,
            room,
            rows: context.gpu().buffer("the cache of latents", bytes)?.slice(),
            table: tables.get(context, spec.rope, capacity.max(1))?,
            lanes: lanes(context, spec)?,
        })
    }

    /// Fails unless this cache is for `spec` and `tokens` more fit.
    fn check(&self, spec: &LatentSpec, tokens: usize) -> Result<(), Error> {
        let own = &self.spec;
        Error::check_shape("heads of a cache", own.heads, spec.heads)?;
        Error::check_shape("latents of a cache", own.rank, spec.rank)?;
        let (dims, found) = (own.rope.dims, spec.rope.dims);
        Error::check_shape("rotated keys of a cache", dims, found)?;
        self.room.check(tokens)
    }
}

/// Values of a row of the cache.
fn width(spec: &LatentSpec) -> usize {
    padded(spec.rank) + spec.rope.dims.next_multiple_of(8)
}

/// As many lanes for a workgroup that attends as the device has memory for.
fn lanes(context: &Context, spec: &LatentSpec) -> Result<usize, Error> {
    let most = context.gpu().limits().max_compute_workgroup_storage_size as usize;
    let fours = HEADS.div_ceil(4);
    let queries = width(spec) / 8 * (8 * fours + 1);
    let memory = |lanes: usize| 16 * (queries + (lanes + POSITIONS) * fours);
    let fits = |&lanes: &usize| memory(lanes) <= most && padded(spec.rank) <= 4 * lanes;
    [256, 128, 64].into_iter().find(fits).ok_or_else(|| {
        Error::Device(format!(
            "latents of {} values: GPU kernels have no memory for as many",
            spec.rank
        ))
    })
}

/// The scalars of kernels that take queries to the latents' side.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Token {
    heads: u32,
    nope: u32,
    rank: u32,
    dims: u32,
    position: u32,
    epsilon: f32,
}

/// Attention of new tokens to the cache and to each other.
pub(crate) fn latent_attend(
    context: &Context,
    inputs: &LatentInputs<'_, Tensor, Norm>,
    expansion: &Expansion,
    spec: &LatentSpec,
    cache: &mut LatentCache,
) -> Result<Tensor, Error> {
    let LatentInputs { q, latent, norm } = *inputs;
    let own = &expansion.spec;
    q.check_width("width of queries", spec.heads * spec.query_dim())?;
    latent.check_width("width of latents", spec.cached_width())?;
    for (what, expected, found) in [
        ("tokens of latents", q.rows(), latent.rows()),
        ("heads of an expansion", own.heads, spec.heads),
        ("keys of an expansion", own.nope_dim, spec.nope_dim),
        ("values of an expansion", own.value_dim, spec.value_dim),
        ("latents of an expansion", own.rank, spec.rank),
        ("norm of latents", spec.rank, norm.values().len()),
    ] {
        Error::check_shape(what, expected, found)?;
    }
    cache.check(spec, q.rows())?;
    if let Some(moments) = &expansion.watch {
        let latents = rows::resize(context, latent, latent.width(), spec.rank)?;
        moments.observe(
            context,
            &norm.apply(context, &latents, context.guard.flag())?,
        )?;
    }
    let few = q.rows() <= MAX_FEW;
    let absorbed = match few {
        true => absorb_few(context, inputs, expansion, cache)?,
        false => absorb_many(context, inputs, expansion, cache)?,
    };
    let attended = attend(context, &absorbed, cache)?;
    let out = match few {
        true => values_of_few(context, &attended, expansion)?,
        false => values_of_many(context, &attended.parts, expansion)?,
    };
    cache.room.len += q.rows();
    Ok(out)
}

fn token(norm: &Norm, cache: &LatentCache) -> Token {
    let spec = &cache.spec;
    Token {
        heads: spec.heads as u32,
        nope: spec.nope_dim as u32,
        rank: spec.rank as u32,
        dims: spec.rope.dims as u32,
        position: cache.room.len as u32,
        epsilon: norm.epsilon(),
    }
}

/// Appends latents to the cache, and gives queries of its width: of a few tokens, in one kernel.
fn absorb_few(
    context: &Context,
    inputs: &LatentInputs<'_, Tensor, Norm>,
    expansion: &Expansion,
    cache: &LatentCache,
) -> Result<Tensor, Error> {
    let (spec, rows) = (&cache.spec, inputs.q.rows());
    let absorbed = context.tensor(rows, spec.heads * width(spec))?;
    let params = token(inputs.norm, cache);
    let slices = [&inputs.q.slice(), &inputs.latent.slice()];
    let work = Work {
        bytes: slices[0].size() + expansion.keys.size() + absorbed.slice().size(),
        operations: (2 * rows * spec.heads * spec.nope_dim * spec.rank) as u64,
    };
    context.run_for(
        work,
        "latent_queries",
        &[
            ("RANK", (padded(spec.rank) as u32).into()),
            ("WIDTH", (width(spec) as u32).into()),
            ("WG", WORKGROUP.into()),
            ("PAIRING", pairing(spec.rope)),
            ("REDUCE", context.reduce()),
        ],
        &[
            slices[0],
            slices[1],
            inputs.norm.weight(),
            &cache.table.turns,
            &expansion.keys,
            &absorbed.slice(),
            &cache.rows,
        ],
        &params,
        [
            (padded(spec.rank) / COLUMNS) as u32,
            params.heads + 1,
            rows as u32,
        ],
    )?;
    Ok(absorbed)
}

/// As [`absorb_few`], in two kernels, of which the second reads the expansion once for many rows.
fn absorb_many(
    context: &Context,
    inputs: &LatentInputs<'_, Tensor, Norm>,
    expansion: &Expansion,
    cache: &LatentCache,
) -> Result<Tensor, Error> {
    let (spec, q) = (&cache.spec, inputs.q);
    let absorbed = context.tensor(q.rows(), spec.heads * width(spec))?;
    let params = token(inputs.norm, cache);
    let work = Work {
        bytes: inputs.latent.slice().size(),
        operations: 0,
    };
    context.run_for(
        work,
        "latent_append",
        &[
            ("RANK", (padded(spec.rank) as u32).into()),
            ("WIDTH", (width(spec) as u32).into()),
            ("WG", COLUMNS_WORKGROUP.into()),
            ("PAIRING", pairing(spec.rope)),
            ("REDUCE", context.reduce()),
        ],
        &[
            &q.slice(),
            &inputs.latent.slice(),
            inputs.norm.weight(),
            &cache.table.turns,
            &absorbed.slice(),
            &cache.rows,
        ],
        &params,
        [params.heads + 1, q.rows() as u32, 1],
    )?;
    project(
        context,
        (q, spec.query_dim()),
        (&expansion.keys, spec.nope_dim, padded(spec.rank)),
        (&absorbed, padded(spec.rank), width(spec)),
        spec.heads,
    )?;
    Ok(absorbed)
}

/// Lanes that norm a latent or rotate a query: little to do for each.
const COLUMNS_WORKGROUP: u32 = 64;

/// `out[r, h] = x[r, h] · matrices[h]` for many rows. `x` comes with the values from a head to the next, the matrices with their inputs
/// and padded columns, `out` with how many columns are written and the values from a head to the next.
fn project(
    context: &Context,
    (x, x_head): (&Tensor, usize),
    (matrices, inputs, padded): (&Slice, usize, usize),
    (out, columns, out_head): (&Tensor, usize, usize),
    heads: usize,
) -> Result<(), Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        rows: u32,
        inputs: u32,
        columns: u32,
        quads: u32,
        x_row: u32,
        x_head: u32,
        out_row: u32,
        out_head: u32,
    }
    const ROWS: usize = 64;
    let rows = x.rows();
    let params = Params {
        rows: rows as u32,
        inputs: inputs as u32,
        columns: columns as u32,
        quads: (padded / 4) as u32,
        x_row: x.width() as u32,
        x_head: x_head as u32,
        out_row: out.width() as u32,
        out_head: out_head as u32,
    };
    let work = Work {
        bytes: x.slice().size() + matrices.size() + out.slice().size(),
        operations: (2 * rows * heads * inputs * columns) as u64,
    };
    let grid = [padded / COLUMNS, rows.div_ceil(ROWS), heads].map(|n| n as u32);
    let slices = [&x.slice(), matrices, &out.slice()];
    Ok(context.run_for(work, "latent_project", &[], &slices, &params, grid)?)
}

/// What parts of the context gave: `[rows, heads, splits, rank]`, padded, and what it takes to add them up.
struct Attended {
    parts: Tensor,
    stats: Tensor,
    splits: usize,
    rows: usize,
}

fn attend(context: &Context, absorbed: &Tensor, cache: &LatentCache) -> Result<Attended, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        heads: u32,
        position: u32,
        splits: u32,
        per_split: u32,
        scale: f32,
    }
    let (spec, rows) = (&cache.spec, absorbed.rows());
    let lanes = cache.lanes;
    let groups = spec.heads.div_ceil(HEADS);
    let tokens = cache.room.len + rows;
    let most = match rows {
        ..=MAX_FEW => MAX_SPLITS.min(MAX_SPLIT_GROUPS.div_ceil(rows * groups)),
        _ => 1,
    };
    let per_split = tokens.div_ceil(most).next_multiple_of(POSITIONS);
    let splits = tokens.div_ceil(per_split);
    // As much whatever the context, so that each token runs in the memory of the one before.
    let parts = context.tensor(rows, spec.heads * most * padded(spec.rank))?;
    let stats = context.tensor(rows, spec.heads * most * 2)?;
    let given = rows * spec.heads * splits * padded(spec.rank);
    let params = Params {
        heads: spec.heads as u32,
        position: cache.room.len as u32,
        splits: splits as u32,
        per_split: per_split as u32,
        scale: spec.scale,
    };
    // Each query sees what came before it, and itself.
    let seen = rows * cache.room.len + rows * (rows + 1) / 2;
    let of_pair = 2 * spec.heads * (spec.cached_width() + spec.rank);
    let work = Work {
        bytes: absorbed.slice().size() + 4 * given as u64 + 2 * (tokens * width(spec)) as u64,
        operations: (of_pair * seen) as u64,
    };
    context.run_for(
        work,
        "latent_attend",
        &[
            ("RANK", (padded(spec.rank) as u32).into()),
            ("WIDTH", (width(spec) as u32).into()),
            ("HEADS", (HEADS as u32).into()),
            ("WG", (lanes as u32).into()),
        ],
        &[
            &absorbed.slice(),
            &cache.rows,
            &parts.slice(),
            &stats.slice(),
        ],
        &params,
        [splits as u32, groups as u32, rows as u32],
    )?;
    Ok(Attended {
        parts,
        stats,
        splits,
        rows,
    })
}

/// Adds up parts of the context, and makes values of latents.
fn values_of_few(
    context: &Context,
    attended: &Attended,
    expansion: &Expansion,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        heads: u32,
        splits: u32,
        rank: u32,
        width: u32,
        quads: u32,
    }
    let spec = &expansion.spec;
    let columns = padded(spec.value_dim);
    let out = context.tensor(attended.rows, spec.heads * spec.value_dim)?;
    let params = Params {
        heads: spec.heads as u32,
        splits: attended.splits as u32,
        rank: spec.rank as u32,
        width: spec.value_dim as u32,
        quads: (columns / 4) as u32,
    };
    let parts = attended.parts.slice();
    let given = attended.rows * spec.heads * attended.splits * padded(spec.rank);
    let work = Work {
        bytes: 4 * given as u64 + expansion.values.size() + out.slice().size(),
        operations: (2 * attended.rows * spec.heads * spec.rank * spec.value_dim) as u64,
    };
    context.run_for(
        work,
        "latent_values",
        &[
            ("RANK", (padded(spec.rank) as u32).into()),
            ("WG", WORKGROUP.into()),
        ],
        &[
            &parts,
            &attended.stats.slice(),
            &expansion.values,
            &out.slice(),
        ],
        &params,
        [
            (columns / COLUMNS) as u32,
            params.heads,
            attended.rows as u32,
        ],
    )?;
    Ok(out)
}

/// Makes values of latents of many rows.
fn values_of_many(
    context: &Context,
    latents: &Tensor,
    expansion: &Expansion,
) -> Result<Tensor, Error> {
    let spec = &expansion.spec;
    let out = context.tensor(latents.rows(), spec.heads * spec.value_dim)?;
    project(
        context,
        (latents, padded(spec.rank)),
        (&expansion.values, spec.rank, padded(spec.value_dim)),
        (&out, spec.value_dim, spec.value_dim),
        spec.heads,
    )?;
    Ok(out)
}
