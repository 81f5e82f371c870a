use bytemuck::{Pod, Zeroable};

use super::effort::Window;
use super::graph::Graph;
use super::metric::Metric;
use crate::{Bits, Codebook, TILE_WEIGHTS};

/// One step for all registers: the cost after it of register `e` becomes the smallest over the branches into `e`. Takes
/// the codebook in the kernel's order, the costs before the step, room for those after it, and the step's target.
pub(super) type Step<M> = fn(
    &[<M as Metric>::Value],
    &[<M as Metric>::Cost],
    &mut [<M as Metric>::Cost],
    <M as Metric>::Value,
);

/// What depends on the rate and the instructions.
pub(super) struct Kernel<M: Metric> {
    pub(super) step: Step<M>,
    /// As [`Metric::renormalize`].
    pub(super) renormalize: fn(&mut [M::Cost]),
    /// The states in the order in which `step` reads their weights.
    pub(super) order: Vec<u16>,
}

/// The two-pass search over one kernel.
///
/// A forward pass computes costs and nothing else: it keeps them every few steps, and the walk back finds out which
/// branch was taken by extending kept costs once more. That is a few dozen evaluations per step against the 65,536 of
/// the forward pass, where recording branches would take as many instructions as the costs themselves.
pub(super) struct Search<M: Metric> {
    graph: Graph,
    metric: M,
    kernel: Kernel<M>,
    /// Weights in the kernel's order.
    streamed: Buffer,
    /// Weights by register, then by branch into it.
    incoming: Vec<M::Value>,
}

/// Costs that one tile's search works on.
#[derive(Default)]
pub(super) struct Scratch(Buffer);

/// Bytes aligned to a cache line, which is also the longest vector.
#[derive(Default)]
struct Buffer(Vec<Line>);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Buffer {
    fn zeroed<T: Pod>(len: usize) -> Self {
        Self(vec![Line::zeroed(); (len * size_of::<T>()).div_ceil(64)])
    }

    fn get<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.0)
    }

    fn get_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// One forward pass: its targets, where it started, and the costs that it kept.
struct Pass<'a, M: Metric> {
    search: &'a Search<M>,
    targets: &'a [M::Value],
    /// The only register to start from, if not any.
    start: Option<usize>,
    costs: &'a mut [M::Cost],
}

impl<M: Metric> Search<M> {
    pub(super) fn new(bits: Bits, codebook: Codebook, kernel: Kernel<M>) -> Self {
        let graph = Graph::new(bits);
        let metric = M::new(bits, codebook);
        let weight = |state: usize| metric.value(codebook.table()[state]);
        let mut streamed = Buffer::zeroed::<M::Value>(kernel.order.len());
        for (slot, &state) in streamed.get_mut().iter_mut().zip(&kernel.order) {
            *slot = weight(usize::from(state));
        }
        let incoming = (0..graph.registers())
            .flat_map(|register| (0..graph.branches()).map(move |q| graph.state(q, register)))
            .map(weight)
            .collect();
        Self {
            graph,
            metric,
            kernel,
            streamed,
            incoming,
        }
    }

    /// The states of the closed walk nearest to `targets`.
    pub(super) fn encode(
        &self,
        targets: &[f32; TILE_WEIGHTS],
        window: Window,
        scratch: &mut Scratch,
    ) -> [u16; TILE_WEIGHTS] {
        let slots = TILE_WEIGHTS / self.interval() + 1 + 2;
        let len = slots * self.graph.registers();
        if scratch.0.get::<M::Cost>().len() < len {
            scratch.0 = Buffer::zeroed::<M::Cost>(len);
        }
        let costs = scratch.0.get_mut::<M::Cost>();
        let targets = targets.map(|target| self.metric.value(target));

        let around = window.of(&targets);
        let free = self.forward(&around, None, &mut *costs);
        let mut seam = free.best_end();
        for step in (window.before..window.steps()).rev() {
            seam = self.graph.predecessor(free.branch(step, seam), seam);
        }

        let tied = self.forward(&targets, Some(seam), costs);
        let mut states = [0; TILE_WEIGHTS];
        let mut register = seam;
        for step in (0..TILE_WEIGHTS).rev() {
            let branch = tied.branch(step, register);
            states[step] = self.graph.state(branch, register) as u16;
            register = self.graph.predecessor(branch, register);
        }
        states
    }

    fn forward<'a>(
        &'a self,
        targets: &'a [M::Value],
        start: Option<usize>,
        costs: &'a mut [M::Cost],
    ) -> Pass<'a, M> {
        let registers = self.graph.registers();
        let first = &mut costs[..registers];
        match start {
            None => first.fill(M::FREE),
            Some(start) => {
                first.fill(M::UNREACHABLE);
                first[start] = M::FREE;
            }
        }
        for (step, &target) in targets.iter().enumerate() {
            let slot = |step| self.slot(step) * registers..(self.slot(step) + 1) * registers;
            let [before, after] = costs
                .get_disjoint_mut([slot(step), slot(step + 1)])
                .expect("successive steps have slots of their own");
            if M::RENORMALIZE.is_some_and(|interval| step > 0 && step.is_multiple_of(interval)) {
                (self.kernel.renormalize)(before);
            }
            (self.kernel.step)(self.streamed.get(), before, after, target);
        }
        Pass {
            search: self,
            targets,
            start,
            costs,
        }
    }

    /// Costs are kept every so many steps, a divisor of 16: few enough steps that trying every way through them is
    /// cheap, and enough that all that is kept is at most 4 MiB.
    fn interval(&self) -> usize {
        match self.graph.bits() {
            1 => 4,
            2 | 3 => 2,
            _ => 1,
        }
    }

    /// Where the costs before `step` lie: kept ones in order, the others in two slots after them that take turns.
    fn slot(&self, step: usize) -> usize {
        let interval = self.interval();
        if step.is_multiple_of(interval) {
            step / interval
        } else {
            TILE_WEIGHTS / interval + 1 + step % 2
        }
    }
}

impl<M: Metric> Pass<'_, M> {
    /// The branch by which the best path through `register` after `step` got there, the lowest one of equals.
    fn branch(&self, step: usize, register: usize) -> usize {
        self.best(step, register).0
    }

    /// The best branch into `register` at `step`, and the cost after it.
    fn best(&self, step: usize, register: usize) -> (usize, M::Cost) {
        let Search {
            graph, incoming, ..
        } = self.search;
        let branches = match self.start {
            Some(start) => graph.branches_from(start, step),
            None => 0..graph.branches(),
        };
        let weights = &incoming[register * graph.branches()..][..graph.branches()];
        let target = self.targets[step];
        let mut best = (branches.start, M::UNREACHABLE);
        let mut consider = |q: usize, before: M::Cost| {
            let cost = M::extend(before, weights[q], target);
            if cost < best.1 {
                best = (q, cost);
            }
        };
        match self.kept_before(step) {
            Some(kept) => branches.for_each(|q| consider(q, kept[graph.predecessor(q, register)])),
            None => branches.for_each(|q| {
                consider(q, self.best(step - 1, graph.predecessor(q, register)).1);
            }),
        }
        best
    }

    /// The costs before `step`, if they were kept.
    fn kept_before(&self, step: usize) -> Option<&[M::Cost]> {
        let registers = self.search.graph.registers();
        let slot = self.search.slot(step);
        step.is_multiple_of(self.search.interval())
            .then(|| &self.costs[slot * registers..][..registers])
    }

    /// The register with the lowest cost after the last step, the lowest one of equals.
    fn best_end(&self) -> usize {
        let registers = self.search.graph.registers();
        let ends = &self.costs[self.search.slot(self.targets.len()) * registers..][..registers];
        let mut end = 0;
        for (register, &cost) in ends.iter().enumerate() {
            if cost < ends[end] {
                end = register;
            }
        }
        end
    }
}
