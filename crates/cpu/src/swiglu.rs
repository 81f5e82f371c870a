//! SwiGLU networks (arXiv 2002.05202), any number of them at once.

use std::ops::Range;

use rayon::prelude::*;
use treillage_backend::{Error, SwiGlu};
use treillage_trellis::lanes::{Kernel, Lanes};

use crate::blocks::{Output, for_each_block};
use crate::compute::Compute;
use crate::linear::{Input, Linear};
use crate::math::silu;
use crate::project::{Inputs, Product, add_products};

/// Networks of one size and the rows that each of them gets.
pub(crate) struct Batches<'a> {
    batches: Vec<(&'a SwiGlu<Linear>, Range<usize>)>,
    width: usize,
    intermediate: usize,
}

impl<'a> Batches<'a> {
    /// No network yet; all are to be from `width` to `intermediate` values and back.
    pub(crate) fn new(width: usize, intermediate: usize) -> Self {
        Self {
            batches: Vec::new(),
            width,
            intermediate,
        }
    }

    /// Gives the next `rows` rows to `network`.
    pub(crate) fn push(&mut self, network: &'a SwiGlu<Linear>, rows: usize) -> Result<(), Error> {
        let SwiGlu { gate, up, down } = network;
        gate.check(self.width, self.intermediate)?;
        up.check(self.width, self.intermediate)?;
        down.check(self.intermediate, self.width)?;
        let start = self.rows();
        self.batches.push((network, start..start + rows));
        Ok(())
    }

    fn rows(&self) -> usize {
        self.batches.last().map_or(0, |(_, rows)| rows.end)
    }

    /// `silu(gate x) ∘ up x` for all rows of `x`.
    pub(crate) fn hidden(&self, compute: Compute, x: &[f32]) -> Vec<f32> {
        let inputs: Vec<Inputs<'_>> = self
            .batches
            .par_iter()
            .map(|(SwiGlu { gate, up, .. }, rows)| {
                Inputs::new(compute, &[gate, up], &x[span(rows, self.width)])
            })
            .collect();
        let mut hidden = vec![0.0; self.rows() * self.intermediate];
        let outputs = self
            .split(&mut hidden, self.intermediate)
            .map(|values| Output {
                values,
                cols: self.intermediate,
            });
        for_each_block(outputs, |i, columns, rows| {
            let SwiGlu { gate, up, .. } = self.batches[i].0;
            let count = columns.len();
            let mut products = vec![0.0; 2 * rows.len() * count];
            let (gates, ups) = products.split_at_mut(rows.len() * count);
            gate.multiply(compute, inputs[i].of(0), columns.clone(), gates);
            up.multiply(compute, inputs[i].of(1), columns, ups);
            let products = gates.chunks_exact(count).zip(ups.chunks_exact(count));
            for (out, (gate, up)) in rows.iter_mut().zip(products) {
                compute.isa.run(Activate { gate, up, out });
            }
        });
        hidden
    }

    /// Adds `down h` to `out`, for all rows `h` of `hidden`.
    pub(crate) fn add_down(&self, compute: Compute, hidden: &[f32], out: &mut [f32]) {
        let inputs: Vec<Input<'_>> = self
            .batches
            .par_iter()
            .map(|(network, rows)| {
                let hidden = &hidden[span(rows, self.intermediate)];
                network.down.prepare(compute, hidden)
            })
            .collect();
        let products = self
            .split(out, self.width)
            .enumerate()
            .map(|(i, out)| Product {
                linear: &self.batches[i].0.down,
                input: &inputs[i],
                out,
            });
        add_products(compute, products);
    }

    /// The rows of each batch.
    fn split<'o>(
        &self,
        values: &'o mut [f32],
        width: usize,
    ) -> impl Iterator<Item = &'o mut [f32]> {
        let mut rest = values;
        self.batches
            .iter()
            .map(move |(_, rows)| rest.split_off_mut(..rows.len() * width).unwrap_or_default())
    }
}

/// The values of rows `rows` of a matrix.
pub(crate) fn span(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// `out = silu(gate) ∘ up`.
struct Activate<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for ((out, gate), up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = silu(*gate) * up;
        }
    }
}
