//! SwiGLU networks (arXiv 2002.05202), any number of them at once.

use rayon::prelude::*;
use treillage_backend::{Error, SwiGlu};
use treillage_trellis::lanes::{Kernel, Lanes};

use crate::blocks::{Output, for_each_block};
use crate::compute::Compute;
use crate::exp::silu;
use crate::linear::{Input, Linear};

/// Rows that a task prepares inputs for: fewer are not worth a thread.
const MIN_ROWS: usize = 8;

/// Rows that go through one network.
pub(crate) struct Batch<'a> {
    pub(crate) network: &'a SwiGlu<Linear>,
    /// Row-major, as wide as the network's input.
    pub(crate) x: &'a [f32],
}

impl Batch<'_> {
    fn rows(&self) -> usize {
        self.x.len() / self.network.gate.shape().in_features
    }
}

/// Checks that the projections fit each other and inputs and outputs of `width`.
pub(crate) fn check(network: &SwiGlu<Linear>, width: usize) -> Result<(), Error> {
    let hidden = network.gate.shape().out_features;
    network.gate.check_input(width)?;
    network.up.check_input(width)?;
    network.down.check_input(hidden)?;
    Error::check_shape("up projection", hidden, network.up.shape().out_features)?;
    Error::check_shape("down projection", width, network.down.shape().out_features)
}

/// `silu(gate x) ∘ up x` of each batch.
pub(crate) fn hidden(compute: Compute, batches: &[Batch<'_>]) -> Vec<Vec<f32>> {
    let inputs = for_batches(batches, |batch| {
        let SwiGlu { gate, up, .. } = batch.network;
        let input = gate.prepare(compute, batch.x);
        let other = (!gate.shares_input(up)).then(|| up.prepare(compute, batch.x));
        (input, other)
    });
    let cols = |batch: &Batch<'_>| batch.network.gate.shape().out_features;
    let mut hidden: Vec<Vec<f32>> = batches
        .iter()
        .map(|b| vec![0.0; b.rows() * cols(b)])
        .collect();
    let outputs = hidden
        .iter_mut()
        .zip(batches)
        .map(|(values, batch)| Output {
            values,
            cols: cols(batch),
        });
    for_each_block(outputs, |i, columns, rows| {
        let SwiGlu { gate, up, .. } = batches[i].network;
        let (input, other) = &inputs[i];
        let len = rows.len() * columns.len();
        let mut products = vec![0.0; 2 * len];
        let (gates, ups) = products.split_at_mut(len);
        gate.multiply(compute, input, columns.clone(), gates);
        up.multiply(
            compute,
            other.as_ref().unwrap_or(input),
            columns.clone(),
            ups,
        );
        let products = gates
            .chunks_exact(columns.len())
            .zip(ups.chunks_exact(columns.len()));
        for (out, (gate, up)) in rows.iter_mut().zip(products) {
            compute.isa.run(Activate { gate, up, out });
        }
    });
    hidden
}

/// `down h` of each batch, for `h` as [`hidden`] gave it.
pub(crate) fn down(compute: Compute, batches: &[Batch<'_>], hidden: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let inputs: Vec<Input<'_>> = batches
        .par_iter()
        .zip(hidden)
        .with_min_len(min_len(batches))
        .map(|(batch, hidden)| batch.network.down.prepare(compute, hidden))
        .collect();
    let cols = |batch: &Batch<'_>| batch.network.down.shape().out_features;
    let mut down: Vec<Vec<f32>> = batches
        .iter()
        .map(|b| vec![0.0; b.rows() * cols(b)])
        .collect();
    let outputs = down.iter_mut().zip(batches).map(|(values, batch)| Output {
        values,
        cols: cols(batch),
    });
    for_each_block(outputs, |i, columns, rows| {
        let mut products = vec![0.0; rows.len() * columns.len()];
        batches[i]
            .network
            .down
            .multiply(compute, &inputs[i], columns.clone(), &mut products);
        for (row, products) in rows.iter_mut().zip(products.chunks_exact(columns.len())) {
            row.copy_from_slice(products);
        }
    });
    down
}

fn for_batches<'a, T: Send>(
    batches: &'a [Batch<'a>],
    f: impl Fn(&'a Batch<'a>) -> T + Sync + Send,
) -> Vec<T> {
    batches
        .par_iter()
        .with_min_len(min_len(batches))
        .map(f)
        .collect()
}

/// Batches that together have [`MIN_ROWS`] rows, on average.
fn min_len(batches: &[Batch<'_>]) -> usize {
    let rows: usize = batches.iter().map(Batch::rows).sum();
    (MIN_ROWS * batches.len()).div_ceil(rows.max(1)).max(1)
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
