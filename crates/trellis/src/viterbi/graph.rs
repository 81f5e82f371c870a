use std::ops::Range;

use crate::{Bits, STATES};

/// The trellis as a graph over registers, the `16 − K` bits that a state hands to the next.
///
/// State `s` leads from register `s >> K` to register `s mod 2^(16−K)`. So `2^K` states enter each register `e`, told
/// apart by their upper `K` bits `q`: the bits that drop out of the register on the way.
#[derive(Clone, Copy)]
pub(super) struct Graph {
    bits: usize,
}

impl Graph {
    pub(super) fn new(bits: Bits) -> Self {
        Self { bits: bits.get() }
    }

    /// K.
    pub(super) fn bits(self) -> usize {
        self.bits
    }

    /// Number of registers.
    pub(super) fn registers(self) -> usize {
        STATES >> self.bits
    }

    /// Number of states that enter a register.
    pub(super) fn branches(self) -> usize {
        1 << self.bits
    }

    /// The state that enters `register` by branch `q`.
    pub(super) fn state(self, q: usize, register: usize) -> usize {
        q << (16 - self.bits) | register
    }

    /// The register that [`Graph::state`] comes from.
    pub(super) fn predecessor(self, q: usize, register: usize) -> usize {
        self.state(q, register) >> self.bits
    }

    /// Whether a walk that starts at `start` can be at `register` after `steps` steps: what is left of `start` then
    /// fills the register's upper bits.
    pub(super) fn reaches(self, start: usize, steps: usize, register: usize) -> bool {
        let fresh = steps * self.bits;
        let width = 16 - self.bits;
        fresh >= width || register >> fresh == start & ((1 << (width - fresh)) - 1)
    }

    /// The branches by which step `step` of a walk that starts at `start` can be taken: what is left of `start` fixes the
    /// upper bits that drop out.
    pub(super) fn branches_from(self, start: usize, step: usize) -> Range<usize> {
        let known = (16 - self.bits).saturating_sub(step * self.bits);
        let kept = start & ((1 << known) - 1);
        if known < self.bits {
            let free = self.bits - known;
            kept << free..(kept + 1) << free
        } else {
            let q = kept >> (known - self.bits);
            q..q + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_reached_by_exactly_the_walks_from_its_predecessors() {
        for bits in Bits::all() {
            let graph = Graph::new(bits);
            let start = 0x5a3c & (graph.registers() - 1);
            let mut reached = vec![false; graph.registers()];
            reached[start] = true;
            for steps in 0..=16 / graph.bits() {
                for register in 0..graph.registers() {
                    assert_eq!(graph.reaches(start, steps, register), reached[register]);
                }
                for q in 0..graph.branches() {
                    let taken = (0..graph.registers()).any(|e| reached[graph.predecessor(q, e)]);
                    assert_eq!(graph.branches_from(start, steps).contains(&q), taken);
                }
                reached = (0..graph.registers())
                    .map(|e| (0..graph.branches()).any(|q| reached[graph.predecessor(q, e)]))
                    .collect();
            }
        }
    }
}
