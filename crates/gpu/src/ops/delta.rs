//! The gated delta rule (Gated Delta Networks, arXiv 2412.06464), with the convolution before it and the norm behind: a kernel for each
//! of many tokens at once, and one that goes through them.

use bytemuck::{Pod, Zeroable};
use treillage_backend::{DeltaInputs, DeltaSpec, DeltaWeights, Error, Room};

use super::WORKGROUP;
use crate::{Context, Gpu, Recorder, Slice, Tensor, Work};

/// Columns that a lane of the rule's kernel holds.
const COLUMNS: usize = 4;
/// Fours of the state that a lane may hold: what compilers keep in registers.
const MAX_OWN: usize = 32;

/// What a gated DeltaNet has beside its linears.
#[derive(Debug)]
pub struct DeltaRule {
    spec: DeltaSpec,
    /// `[key_heads, kernel, channels of a key head]`, in the projection's order.
    taps: Slice,
    /// `[value_heads, 2]`: `−e^log_rate`, and `time_bias`.
    rates: Slice,
    norm: Slice,
    epsilon: f32,
}

impl DeltaRule {
    pub(crate) fn new(
        context: &Context,
        weights: &DeltaWeights,
        spec: &DeltaSpec,
    ) -> Result<Self, Error> {
        weights.check(spec)?;
        let mut taps = Vec::with_capacity(weights.conv.len());
        let (keys, values) = (spec.key_dim, spec.group() * spec.value_dim);
        for head in 0..spec.key_heads {
            let (query, value) = (head * keys, 2 * spec.keys() + head * values);
            let key = spec.keys() + query;
            let channels = [query..query + keys, key..key + keys, value..value + values];
            for tap in 0..spec.kernel {
                let channels = channels.iter().cloned().flatten();
                taps.extend(channels.map(|channel| weights.conv[channel * spec.kernel + tap]));
            }
        }
        let rates = weights.log_rate.iter().zip(&weights.time_bias);
        let rates: Vec<f32> = rates
            .flat_map(|(rate, bias)| [-rate.exp(), *bias])
            .collect();
        let put = |what, values: &[f32]| context.slabs.put(what, bytemuck::cast_slice(values));
        Ok(Self {
            spec: *spec,
            taps: put("a convolution", &taps)?,
            rates: put("rates of decay", &rates)?,
            norm: put("a norm", &weights.norm)?,
            epsilon: weights.epsilon,
        })
    }
}

/// The state of one layer, for one sequence, in f32.
#[derive(Debug)]
pub(crate) struct DeltaCache {
    spec: DeltaSpec,
    pub(super) room: Room,
    state: State,
    /// What it was at a point that can be gone back to, if [`marked`](Self::marked) says that there is one.
    mark: Option<State>,
    /// Tokens at that point.
    marked: Option<usize>,
}

/// What a layer knows of the tokens it has read.
#[derive(Debug)]
struct State {
    /// `[value_heads, key_dim, value_dim]`.
    matrices: Slice,
    /// What the convolution saw last, `[kernel - 1, key_heads, channels of a key head]`.
    tail: Slice,
}

impl State {
    /// Zeros: what a buffer has in it at first.
    fn new(gpu: &Gpu, spec: &DeltaSpec) -> Result<Self, Error> {
        let put = |what, values: usize| gpu.buffer(what, 4 * values as u64);
        Ok(Self {
            matrices: put("recurrent states", spec.state())?.slice(),
            tail: put("recurrent states", (spec.kernel - 1) * spec.channels())?.slice(),
        })
    }

    fn copy_to(&self, recorder: &Recorder, other: &Self) {
        recorder.copy(&self.matrices, &other.matrices);
        recorder.copy(&self.tail, &other.tail);
    }
}

impl DeltaCache {
    pub(crate) fn new(context: &Context, spec: &DeltaSpec, capacity: usize) -> Result<Self, Error> {
        spec.check()?;
        let lanes = WORKGROUP as usize;
        let quads = spec.value_dim / COLUMNS;
        let whole = spec.value_dim.is_multiple_of(COLUMNS) && quads <= lanes;
        if !whole || spec.key_dim.div_ceil(lanes / quads) > MAX_OWN {
            return Err(Error::Device(format!(
                "recurrent states of {} × {}: GPU kernels take at most {} values, in whole fours",
                spec.key_dim,
                spec.value_dim,
                COLUMNS * MAX_OWN * lanes
            )));
        }
        Ok(Self {
            spec: *spec,
            room: Room::new(capacity),
            state: State::new(context.gpu(), spec)?,
            mark: None,
            marked: None,
        })
    }

    /// Makes the state a point that can be gone back to.
    pub(crate) fn mark(&mut self, context: &Context) -> Result<(), Error> {
        let mark = match self.mark.take() {
            Some(mark) => mark,
            None => State::new(context.gpu(), &self.spec)?,
        };
        self.state.copy_to(&context.recorder, &mark);
        self.mark = Some(mark);
        self.marked = Some(self.room.len);
        Ok(())
    }

    /// Goes back to the mark if there are more than `len` tokens, or to the beginning if that is too many as well.
    pub(crate) fn truncate(&mut self, context: &Context, len: usize) {
        if self.room.len <= len {
            return;
        }
        match (&self.mark, self.marked) {
            (Some(mark), Some(marked)) if marked <= len => {
                mark.copy_to(&context.recorder, &self.state);
                self.room.len = marked;
            }
            _ => {
                self.marked = None;
                self.room.len = 0;
                context.recorder.clear(&self.state.matrices);
                context.recorder.clear(&self.state.tail);
            }
        }
    }
}

/// The rule over new tokens.
pub(crate) fn delta_rule(
    context: &Context,
    inputs: &DeltaInputs<'_, Tensor>,
    rule: &DeltaRule,
    spec: &DeltaSpec,
    cache: &mut DeltaCache,
) -> Result<Tensor, Error> {
    let DeltaInputs { qkvz, ba } = *inputs;
    let tokens = qkvz.rows();
    qkvz.check_width("width of a delta rule's projection", spec.projected())?;
    ba.check_width("width of a delta rule's gates", 2 * spec.value_heads)?;
    Error::check_shape("tokens of a delta rule's gates", tokens, ba.rows())?;
    if rule.spec != *spec || cache.spec != *spec {
        return Err(Error::WrongCache("a delta rule of this size"));
    }
    cache.room.check(tokens)?;
    let (mixed, gates) = prepare(context, inputs, rule, cache)?;
    let out = go_through(context, [&mixed, &gates, qkvz], rule, cache)?;
    cache.room.len += tokens;
    Ok(out)
}

/// Queries, keys and values as the rule wants them, and what heads forget and write.
fn prepare(
    context: &Context,
    inputs: &DeltaInputs<'_, Tensor>,
    rule: &DeltaRule,
    cache: &DeltaCache,
) -> Result<(Tensor, Tensor), Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        key_heads: u32,
        key_dim: u32,
        value_dim: u32,
        group: u32,
        kernel: u32,
    }
    const LANES: u32 = 128;
    let (spec, tokens) = (&rule.spec, inputs.qkvz.rows());
    let mixed = context.tensor(tokens, spec.channels())?;
    let gates = context.tensor(tokens, 4 * spec.value_heads)?;
    let params = Params {
        key_heads: spec.key_heads as u32,
        key_dim: spec.key_dim as u32,
        value_dim: spec.value_dim as u32,
        group: spec.group() as u32,
        kernel: spec.kernel as u32,
    };
    context.run(
        "delta_prepare",
        &[("WG", LANES.into()), ("REDUCE", context.reduce())],
        &[
            &inputs.qkvz.slice(),
            &inputs.ba.slice(),
            &cache.state.tail,
            &rule.taps,
            &rule.rates,
            &mixed.slice(),
            &gates.slice(),
        ],
        &params,
        [params.key_heads, tokens as u32, 1],
    )?;
    Ok((mixed, gates))
}

/// What is recurrent, token by token.
fn go_through(
    context: &Context,
    [mixed, gates, qkvz]: [&Tensor; 3],
    rule: &DeltaRule,
    cache: &DeltaCache,
) -> Result<Tensor, Error> {
    #[derive(Clone, Copy, Pod, Zeroable)]
    #[repr(C)]
    struct Params {
        rows: u32,
        key_heads: u32,
        group: u32,
        kernel: u32,
        epsilon: f32,
    }
    let (spec, tokens) = (&rule.spec, qkvz.rows());
    let out = context.tensor(tokens, spec.values())?;
    let params = Params {
        rows: tokens as u32,
        key_heads: spec.key_heads as u32,
        group: spec.group() as u32,
        kernel: spec.kernel as u32,
        epsilon: rule.epsilon,
    };
    let moved = [&mixed.slice(), &gates.slice(), &out.slice()];
    let work = Work {
        bytes: moved.iter().map(|slice| slice.size()).sum::<u64>() + 8 * spec.state() as u64,
        // Two products and an update of the state.
        operations: (6 * tokens * spec.state()) as u64,
    };
    context.run_for(
        work,
        "delta_rule",
        &[
            ("KEY_DIM", (spec.key_dim as u32).into()),
            ("VALUE_DIM", (spec.value_dim as u32).into()),
            ("WG", WORKGROUP.into()),
        ],
        &[
            moved[0],
            moved[1],
            &qkvz.slice(),
            &rule.norm,
            &cache.state.matrices,
            &cache.state.tail,
            moved[2],
        ],
        &params,
        [spec.value_heads as u32, 1, 1],
    )?;
    Ok(out)
}
