use super::effort::{Effort, Window};
use super::graph::Graph;
use super::metric::{Exact, Metric};
use crate::{Bits, Codebook, TILE_WEIGHTS};

/// What [`Encoder::encode_tile`](super::Encoder::encode_tile) does, as plainly as possible and in f32 at every rate. Takes
/// about a second.
pub fn encode_tile_reference(
    targets: &[f32; TILE_WEIGHTS],
    bits: Bits,
    codebook: Codebook,
) -> [u16; TILE_WEIGHTS] {
    encode::<Exact>(targets, bits, codebook, Effort::Best.window())
}

pub(super) fn encode<M: Metric>(
    targets: &[f32; TILE_WEIGHTS],
    bits: Bits,
    codebook: Codebook,
    window: Window,
) -> [u16; TILE_WEIGHTS] {
    let (ends, branches) = forward::<M>(&window.of(targets), bits, codebook, None);
    let mut end = 0;
    for (register, &cost) in ends.iter().enumerate() {
        if cost < ends[end] {
            end = register;
        }
    }
    let free = backward(&branches, bits, end);
    // The state at the tile's first position still holds the register before it.
    let seam = usize::from(free[window.before]) >> bits.get();

    let (_, branches) = forward::<M>(targets, bits, codebook, Some(seam));
    let mut states = [0; TILE_WEIGHTS];
    states.copy_from_slice(&backward(&branches, bits, seam));
    states
}

/// The costs of the best paths into each register, and for each step and register the branch that its best path takes.
fn forward<M: Metric>(
    targets: &[f32],
    bits: Bits,
    codebook: Codebook,
    start: Option<usize>,
) -> (Vec<M::Cost>, Vec<Vec<usize>>) {
    let graph = Graph::new(bits);
    let metric = M::new(bits, codebook);
    let weights: Vec<_> = codebook.table().iter().map(|&w| metric.value(w)).collect();
    let reached = |step, register| start.is_none_or(|start| graph.reaches(start, step, register));

    let mut costs: Vec<_> = (0..graph.registers())
        .map(|register| {
            if reached(0, register) {
                M::FREE
            } else {
                M::UNREACHABLE
            }
        })
        .collect();
    let mut branches = Vec::new();
    for (step, &target) in targets.iter().enumerate() {
        let target = metric.value(target);
        if M::RENORMALIZE.is_some_and(|interval| step > 0 && step.is_multiple_of(interval)) {
            M::renormalize(&mut costs);
        }
        let mut next = Vec::new();
        let mut taken = Vec::new();
        for register in 0..graph.registers() {
            let mut best = (M::UNREACHABLE, 0);
            let mut found = false;
            for q in 0..graph.branches() {
                let from = graph.predecessor(q, register);
                if !reached(step, from) {
                    continue;
                }
                let cost = M::extend(costs[from], weights[graph.state(q, register)], target);
                if !found || cost < best.0 {
                    (best, found) = ((cost, q), true);
                }
            }
            next.push(best.0);
            taken.push(best.1);
        }
        costs = next;
        branches.push(taken);
    }
    (costs, branches)
}

/// The states of the path that ends at register `end`.
fn backward(branches: &[Vec<usize>], bits: Bits, end: usize) -> Vec<u16> {
    let graph = Graph::new(bits);
    let mut states = vec![0; branches.len()];
    let mut register = end;
    for (state, branches) in states.iter_mut().zip(branches).rev() {
        let branch = branches[register];
        *state = graph.state(branch, register) as u16;
        register = graph.predecessor(branch, register);
    }
    states
}
