use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use treillage_gptq::{Element, GroupedLinear, Rotation};
use treillage_linalg::hadamard::fwht;
use treillage_trellis::lanes::Isa;

use super::layout::{Layout, Meaning};
use super::simd::{BYTES, LANE_BYTES, LANES};
use crate::Arithmetic;

/// Rows that a task prepares: fewer are not worth a thread.
const MIN_ROWS: usize = 8;

/// Activations, reordered, rotated, and laid out for the lanes that a linear's codes are read into.
pub struct Arranged {
    pub(super) isa: Isa,
    pub(super) rows: usize,
    pub(super) features: usize,
    pub(super) element: Element,
    pub(super) form: Form,
}

/// Activations as one of the kernels wants them.
pub(super) enum Form {
    /// Reordered and rotated, for groups that are not whole lanes.
    Plain(Vec<f32>),
    /// In f32.
    Exact(Exact),
    /// In bytes, for nibbles.
    Nibbles(Int8<2>),
    /// In bytes, for bytes.
    Bytes(Int8<1>),
}

/// A vector of floats, at the start of a cache line.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Lanes(pub(super) [f32; LANES]);

/// Rows of chunks in f32.
pub(super) struct Exact {
    /// Row, chunk, code of a byte, byte of a lane.
    pub(super) values: Vec<Lanes>,
    /// Row, chunk: the sum of each lane's inputs.
    pub(super) sums: Vec<Lanes>,
}

/// Rows of chunks in bytes.
pub(super) struct Int8<const H: usize>(pub(super) Vec<Quantized<H>>);

/// A chunk of a row, each lane as `step · values`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Quantized<const H: usize> {
    /// By code of a byte.
    pub(super) values: [[i8; BYTES]; H],
    /// What the codes' offset adds to the sum of products, taken off.
    pub(super) start: [i32; LANES],
    /// The sum of each lane's values.
    pub(super) sums: [f32; LANES],
    pub(super) steps: [f32; LANES],
}

impl Arranged {
    /// Rows of `x`, each as wide as the input of `linear`, as it wants them.
    ///
    /// [`Arithmetic::Int8`] holds where groups are a multiple of 8 weights (of 4, if codes are bytes); activations of other
    /// linears stay exact. Each 8 (or 4) neighbouring activations have a step of their own.
    ///
    /// # Panics
    /// If `x` is not whole rows.
    pub fn new(isa: Isa, arithmetic: Arithmetic, linear: &GroupedLinear, x: &[f32]) -> Self {
        let features = linear.in_features();
        assert!(
            x.len().is_multiple_of(features),
            "{} values in rows of {features}",
            x.len()
        );
        let form = match (Layout::of(linear), arithmetic) {
            (None, _) => Form::Plain(plain(linear, x)),
            (Some(layout), Arithmetic::Exact) => Form::Exact(exact(linear, &layout, x)),
            (Some(layout), Arithmetic::Int8) if layout.per_byte == 2 => {
                Form::Nibbles(int8(linear, &layout, x))
            }
            (Some(layout), Arithmetic::Int8) => Form::Bytes(int8(linear, &layout, x)),
        };
        Self {
            isa,
            rows: x.len() / features,
            features,
            element: linear.parts().element,
            form,
        }
    }

    /// Whether they are for groups that are whole lanes.
    pub(super) fn in_lanes(&self) -> bool {
        !matches!(self.form, Form::Plain(_))
    }

    /// Whether what [`Arranged::new`] gives for one of two linears is what it gives for the other.
    pub fn serves_both(a: &GroupedLinear, b: &GroupedLinear) -> bool {
        let (arranged_a, arranged_b) = (Layout::of(a).is_some(), Layout::of(b).is_some());
        let (a, b) = (a.parts(), b.parts());
        arranged_a == arranged_b
            && a.in_features == b.in_features
            && a.element == b.element
            && a.rotation == b.rotation
            && a.order == b.order
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// One row in the order and the basis of the codes; `to` may be longer.
fn arrange(linear: &GroupedLinear, x: &[f32], to: &mut [f32]) {
    let parts = linear.parts();
    match &parts.order {
        None => to[..x.len()].copy_from_slice(x),
        Some(order) => {
            for (to, &input) in to.iter_mut().zip(order) {
                *to = x[input as usize];
            }
        }
    }
    if let Rotation::Block(block) = parts.rotation {
        fwht(&mut to[..x.len()], block);
    }
}

fn plain(linear: &GroupedLinear, x: &[f32]) -> Vec<f32> {
    let mut arranged = vec![0.0; x.len()];
    let width = linear.in_features();
    (x.par_chunks_exact(width))
        .zip(arranged.par_chunks_exact_mut(width))
        .with_min_len(MIN_ROWS)
        .for_each(|(x, to)| arrange(linear, x, to));
    arranged
}

fn exact(linear: &GroupedLinear, layout: &Layout, x: &[f32]) -> Exact {
    let width = linear.in_features();
    let rows = x.len() / width;
    let per_row = layout.padded() / LANES;
    let mut values = vec![Lanes::zeroed(); rows * per_row];
    let mut sums = vec![Lanes::zeroed(); rows * layout.chunks];
    (x.par_chunks_exact(width))
        .zip(values.par_chunks_exact_mut(per_row))
        .zip(sums.par_chunks_exact_mut(layout.chunks))
        .with_min_len(MIN_ROWS)
        .for_each_init(
            || vec![0.0; layout.padded()],
            |arranged, ((x, values), sums)| {
                arrange(linear, x, arranged);
                match layout.per_byte {
                    2 => transpose::<8>(arranged, values, sums),
                    _ => transpose::<4>(arranged, values, sums),
                }
            },
        );
    Exact { values, sums }
}

/// Lanes of `N` inputs become `N` vectors, those for the low codes of bytes first.
fn transpose<const N: usize>(arranged: &[f32], values: &mut [Lanes], sums: &mut [Lanes]) {
    let per_byte = N / LANE_BYTES;
    let (lanes, _) = arranged.as_chunks::<N>();
    let chunks = values.chunks_exact_mut(N).zip(sums);
    for ((vectors, sums), lanes) in chunks.zip(lanes.chunks_exact(LANES)) {
        for (lane, inputs) in lanes.iter().enumerate() {
            for i in 0..N {
                vectors[i % per_byte * LANE_BYTES + i / per_byte].0[lane] = inputs[i];
            }
            sums.0[lane] = inputs.iter().sum();
        }
    }
}

fn int8<const H: usize>(linear: &GroupedLinear, layout: &Layout, x: &[f32]) -> Int8<H> {
    const ZERO: [i32; LANES] = [0; LANES];
    let width = linear.in_features();
    let rows = x.len() / width;
    let offset = i32::from(Meaning::of(linear.parts().element).offset);
    let zero = Quantized {
        values: [[0; BYTES]; H],
        start: ZERO,
        sums: [0.0; LANES],
        steps: [0.0; LANES],
    };
    let mut chunks = vec![zero; rows * layout.chunks];
    (x.par_chunks_exact(width))
        .zip(chunks.par_chunks_exact_mut(layout.chunks))
        .with_min_len(MIN_ROWS)
        .for_each_init(
            || vec![0.0; layout.padded()],
            |arranged, (x, chunks)| {
                arrange(linear, x, arranged);
                for (arranged, chunk) in arranged.chunks_exact(layout.chunk).zip(chunks) {
                    chunk.fill(arranged, offset);
                }
            },
        );
    Int8(chunks)
}

impl<const H: usize> Quantized<H> {
    /// To nearest, with the largest magnitude of each lane at 127. A lane that is not finite gets a step that is not either,
    /// so that all outputs show it.
    fn fill(&mut self, chunk: &[f32], offset: i32) {
        for (lane, inputs) in chunk.chunks_exact(H * LANE_BYTES).enumerate() {
            // Magnitudes order as their bits do; what is not finite comes last.
            let largest = inputs
                .iter()
                .fold(0, |largest, x| x.abs().to_bits().max(largest));
            let largest = f32::from_bits(largest);
            let scale = if largest == 0.0 { 0.0 } else { 127.0 / largest };
            let mut sum = 0;
            for (i, x) in inputs.iter().enumerate() {
                // Adding 1.5 · 2²³ leaves the nearest integer in the low bits of the significand.
                let value = (x * scale + 12_582_912.0).to_bits() as i8;
                self.values[i % H][LANE_BYTES * lane + i / H] = value;
                sum += i32::from(value);
            }
            self.start[lane] = -offset * sum;
            self.sums[lane] = sum as f32;
            self.steps[lane] = largest / 127.0;
        }
    }
}
