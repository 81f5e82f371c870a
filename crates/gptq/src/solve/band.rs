use treillage_linalg::lanes::{Kernel, LANES, Lanes};

use super::feedback::{Block, Feedback, PANEL};
use super::grid::Grid;

/// Vectors side by side: their chains of dependent operations fill each other's gaps.
const VECTORS: usize = 2;

/// Outputs that are swept together, a lane each.
pub(crate) const BAND: usize = VECTORS * LANES;

/// Inputs whose errors are handed on one by one.
const RUN: usize = 16;

/// A value for each output of a band.
type Row = [[f32; LANES]; VECTORS];

/// What a band needs while it is swept, to be used again by the next.
pub(crate) struct Scratch {
    /// Weights, `[in]`, in the matrix's order of inputs.
    weights: Vec<Row>,
    /// `Σ_{j<i} δ_j V_ji`, `[in]` in the sweep's order, filled up to whole panels.
    sums: Vec<Row>,
    /// `δ = w − q` of the inputs of a block.
    errors: Vec<Row>,
    /// `[groups]`
    scales: Vec<Row>,
    /// `[groups]`
    zeros: Vec<Row>,
    /// Codes, `[in]` in the matrix's order.
    codes: Vec<[[u8; LANES]; VECTORS]>,
}

impl Scratch {
    pub(crate) fn new(inputs: usize, groups: usize) -> Self {
        let rows = |count| vec![[[0.0; LANES]; VECTORS]; count];
        Self {
            weights: rows(inputs),
            sums: rows(inputs.next_multiple_of(PANEL)),
            errors: rows(super::feedback::BLOCK),
            scales: rows(groups),
            zeros: rows(groups),
            codes: vec![[[0; LANES]; VECTORS]; inputs],
        }
    }

    /// Takes in the weights `[outputs, in]`, row-major, of at most [`BAND`] outputs, and for each group of each of them what
    /// `scale` says: scale and zero. Lanes without an output get zeros.
    pub(crate) fn fill(&mut self, weights: &[f32], scale: impl Fn(usize, usize) -> (f32, f32)) {
        let inputs = self.weights.len();
        let outputs = weights.len() / inputs;
        self.sums.fill([[0.0; LANES]; VECTORS]);
        if outputs < BAND {
            self.weights.fill([[0.0; LANES]; VECTORS]);
            self.scales.fill([[1.0; LANES]; VECTORS]);
            self.zeros.fill([[0.0; LANES]; VECTORS]);
        }
        // Few inputs at a time, so that the lines that are written stay in cache until they are full; but some lines of each row,
        // so that fetching ahead pays.
        const STRIP: usize = 64;
        for left in (0..inputs).step_by(STRIP) {
            let strip = &mut self.weights[left..inputs.min(left + STRIP)];
            for (output, row) in weights.chunks_exact(inputs).enumerate() {
                for (to, &weight) in strip.iter_mut().zip(&row[left..]) {
                    to.as_flattened_mut()[output] = weight;
                }
            }
        }
        let groups = self.scales.iter_mut().zip(&mut self.zeros).enumerate();
        for (group, (scales, zeros)) in groups {
            for output in 0..outputs {
                let (scale, zero) = scale(output, group);
                scales.as_flattened_mut()[output] = scale;
                zeros.as_flattened_mut()[output] = zero;
            }
        }
    }

    /// Writes the codes, `[outputs, in]`, a byte each, or two in a byte.
    pub(crate) fn store_codes(&self, two_to_a_byte: bool, rows: &mut [u8]) {
        /// Bytes of a row that are gathered at once.
        const STRIP: usize = 32;
        let inputs = if two_to_a_byte { 2 } else { 1 };
        let row_bytes = self.codes.len() / inputs;
        let mut strip = [[0; BAND]; STRIP];
        for left in (0..row_bytes).step_by(STRIP) {
            let width = STRIP.min(row_bytes - left);
            let codes = self.codes[left * inputs..].chunks_exact(inputs);
            for (byte, codes) in strip[..width].iter_mut().zip(codes) {
                byte.copy_from_slice(codes[0].as_flattened());
                if let Some(high) = codes.get(1) {
                    for (byte, high) in byte.iter_mut().zip(high.as_flattened()) {
                        *byte |= high << 4;
                    }
                }
            }
            for (output, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
                for (to, byte) in row[left..left + width].iter_mut().zip(&strip) {
                    *to = byte[output % BAND];
                }
            }
        }
    }
}

/// The sweep of a band: each input in turn is rounded after what the errors of those before it ask of it.
pub(crate) struct Sweep<'a, G> {
    pub(crate) grid: G,
    pub(crate) feedback: &'a Feedback,
    /// Input `i` of the sweep is input `order[i]` of the matrix.
    pub(crate) order: &'a [usize],
    /// Inputs, in the matrix's order, that share a scale.
    pub(crate) group: usize,
    pub(crate) scratch: &'a mut Scratch,
}

impl<G: Grid> Kernel for Sweep<'_, G> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let feedback = self.feedback;
        for block in &feedback.blocks {
            for start in (0..block.height).step_by(RUN) {
                let end = block.height.min(start + RUN);
                for step in start..end {
                    let i = block.first + step;
                    let input = self.order[i];
                    round_input(
                        lanes,
                        self.grid,
                        feedback.diagonal[i],
                        [i, input, input / self.group, step],
                        self.scratch,
                    );
                    hand_on(lanes, block, step, end, self.scratch);
                }
                if end < block.height {
                    let panels = end / PANEL..block.height.div_ceil(PANEL);
                    for panel in panels {
                        accumulate_panel(lanes, block, panel, start, end, self.scratch);
                    }
                }
            }
            for panel in block.height.div_ceil(PANEL)..block.panels() {
                accumulate_panel(lanes, block, panel, 0, block.height, self.scratch);
            }
        }
    }
}

/// Rounds one input of all outputs: `t = w + Σ / V_ii`, `q = Q(t)`, `δ = w − q`.
#[inline(always)]
fn round_input<L: Lanes, G: Grid>(
    lanes: L,
    grid: G,
    diagonal: f32,
    [i, input, group, step]: [usize; 4],
    scratch: &mut Scratch,
) {
    let diagonal = lanes.splat(diagonal);
    for v in 0..VECTORS {
        let weight = lanes.load(&scratch.weights[input][v]);
        let scale = lanes.load(&scratch.scales[group][v]);
        let zero = lanes.load(&scratch.zeros[group][v]);
        let pull = lanes.div(lanes.load(&scratch.sums[i][v]), diagonal);
        let target = lanes.div(lanes.add(weight, pull), scale);
        let (value, code) = grid.round(lanes, target, zero);
        let error = lanes.sub(weight, lanes.mul(value, scale));
        lanes.store(error, &mut scratch.errors[step][v]);
        scratch.codes[input][v] = lanes.to_bytes(code);
    }
}

/// Adds the error of `step` to the sums of the steps up to `end`.
#[inline(always)]
fn hand_on<L: Lanes>(lanes: L, block: &Block, step: usize, end: usize, scratch: &mut Scratch) {
    let mut error = [lanes.splat(0.0); VECTORS];
    for v in 0..VECTORS {
        error[v] = lanes.load(&scratch.errors[step][v]);
    }
    for later in step + 1..end {
        let factor = lanes.splat(block.panel(later / PANEL)[step][later % PANEL]);
        let sums = &mut scratch.sums[block.first + later];
        for v in 0..VECTORS {
            let sum = lanes.mul_add(factor, error[v], lanes.load(&sums[v]));
            lanes.store(sum, &mut sums[v]);
        }
    }
}

/// Adds the errors of the steps `start .. end` to the sums of a panel's columns.
#[inline(always)]
fn accumulate_panel<L: Lanes>(
    lanes: L,
    block: &Block,
    panel: usize,
    start: usize,
    end: usize,
    scratch: &mut Scratch,
) {
    let factors = &block.panel(panel)[start..end];
    let errors = &scratch.errors[start..end];
    let first = block.first + panel * PANEL;
    let Some((sums, _)) = scratch.sums[first..].split_first_chunk_mut::<PANEL>() else {
        return;
    };
    if L::WIDE {
        accumulate::<L, VECTORS, PANEL>(lanes, factors, errors, sums, 0, 0);
    } else {
        for v in 0..VECTORS {
            for column in (0..PANEL).step_by(PANEL / 2) {
                accumulate::<L, 1, { PANEL / 2 }>(lanes, factors, errors, sums, v, column);
            }
        }
    }
}

/// The same for `V` vectors from `vector` on and `C` columns from `column` on, with all sums in registers.
#[inline(always)]
fn accumulate<L: Lanes, const V: usize, const C: usize>(
    lanes: L,
    factors: &[[f32; PANEL]],
    errors: &[Row],
    sums: &mut [Row; PANEL],
    vector: usize,
    column: usize,
) {
    let mut local = [[lanes.splat(0.0); V]; C];
    for c in 0..C {
        for v in 0..V {
            local[c][v] = lanes.load(&sums[column + c][vector + v]);
        }
    }
    for (factors, errors) in factors.iter().zip(errors) {
        let mut error = [lanes.splat(0.0); V];
        for v in 0..V {
            error[v] = lanes.load(&errors[vector + v]);
        }
        for c in 0..C {
            let factor = lanes.splat(factors[column + c]);
            for v in 0..V {
                local[c][v] = lanes.mul_add(factor, error[v], local[c][v]);
            }
        }
    }
    for c in 0..C {
        for v in 0..V {
            lanes.store(local[c][v], &mut sums[column + c][vector + v]);
        }
    }
}
