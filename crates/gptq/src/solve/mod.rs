//! The sweep of GPTQ in its pull form (arXiv 2507.18553 shows that it is Babai's nearest plane).
//!
//! With `H + λI = V Vᵀ`, `V` upper triangular, input after input: `t_i = w_i + Σ_{j<i} δ_j V_ji / V_ii`, `q_i = Q(t_i)`,
//! `δ_i = w_i − q_i`. Weights are only read, and nothing is inverted. Outputs do not interact: a band of them is a task, a lane
//! of a vector each, and every sum is taken in the same order however many tasks run at once.

mod band;
mod feedback;
mod grid;

use rayon::prelude::*;
use treillage_linalg::lanes::Isa;

use crate::{Element, GroupScales};
use band::{BAND, Scratch, Sweep};
pub(crate) use feedback::Feedback;
use grid::{FourBitFloats, Grid, Integers};

/// What is swept.
pub(crate) struct Problem<'a> {
    /// `[out, in]`, row-major.
    pub(crate) weights: &'a [f32],
    pub(crate) in_features: usize,
    pub(crate) element: Element,
    /// Inputs that share a scale.
    pub(crate) group: usize,
    pub(crate) scales: &'a GroupScales,
    /// Input `i` of the sweep, and of the factor, is input `order[i]`.
    pub(crate) order: &'a [usize],
    pub(crate) feedback: &'a Feedback,
}

/// The codes, as [`GroupedLinear`](crate::GroupedLinear) keeps them.
pub(crate) fn sweep(problem: &Problem<'_>) -> Vec<u8> {
    sweep_on(Isa::best(), problem)
}

fn sweep_on(isa: Isa, problem: &Problem<'_>) -> Vec<u8> {
    match problem.element {
        Element::Int(bits) => sweep_grid(isa, problem, Integers::new(bits)),
        Element::E2m1 => sweep_grid(isa, problem, FourBitFloats),
    }
}

fn sweep_grid<G: Grid>(isa: Isa, problem: &Problem<'_>, grid: G) -> Vec<u8> {
    let inputs = problem.in_features;
    let groups = inputs / problem.group;
    let nibbles = problem.element.code_bits() == 4;
    let row_bytes = inputs * problem.element.code_bits() / 8;
    let mut codes = vec![0; problem.weights.len() / inputs * row_bytes];
    (codes.par_chunks_mut(BAND * row_bytes))
        .zip(problem.weights.par_chunks(BAND * inputs))
        .enumerate()
        .for_each_init(
            || Scratch::new(inputs, groups),
            |scratch, (band, (codes, weights))| {
                scratch.fill(weights, |output, group| {
                    let at = (band * BAND + output) * groups + group;
                    let middle = problem.element.middle();
                    let zero = problem.scales.zeros.as_ref().map_or(middle, |z| z[at]);
                    (problem.scales.scales.get(at), f32::from(zero))
                });
                isa.run(Sweep {
                    grid,
                    feedback: problem.feedback,
                    order: problem.order,
                    group: problem.group,
                    scratch,
                });
                scratch.store_codes(nibbles, codes);
            },
        );
    codes
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;
    use treillage_linalg::{Damping, gptq_factor};

    use super::*;
    use crate::{Config, Format, IntBits, ScaleRule, choose_scales};

    /// Values between −1 and 1 that look random.
    fn values(count: usize, seed: u32) -> Vec<f32> {
        let hash = |i: u32| (i ^ seed).wrapping_mul(2_654_435_761).rotate_left(13);
        let value = |i| hash(hash(i)).wrapping_mul(0x9E37_79B1).cast_signed() as f32;
        (0..count as u32)
            .map(|i| value(i) / 2f32.powi(31))
            .collect()
    }

    #[test]
    fn instruction_sets_differ_in_ties_at_most() {
        let (inputs, outputs) = (212, 50);
        let weights = values(inputs * outputs, 1);
        let x = DMatrix::from_vec(inputs, 500, values(inputs * 500, 2));
        let hessian = &x * x.transpose() / 500.0;
        let order: Vec<usize> = (0..inputs).map(|i| i * 5 % inputs).collect();
        let factor = gptq_factor(&hessian, Some(&order), Damping::new(0.01)).unwrap();
        let feedback = Feedback::new(&factor.upper);
        for format in [
            Format::Int(IntBits::Three),
            Format::Int(IntBits::Eight),
            Format::Fp4,
        ] {
            let config = Config {
                scales: ScaleRule::Minmax,
                group: 4,
                ..Config::new(format)
            };
            let problem = Problem {
                weights: &weights,
                in_features: inputs,
                element: format.element(),
                group: config.group,
                scales: &choose_scales(&weights, outputs, inputs, &config, None).unwrap(),
                order: &order,
                feedback: &feedback,
            };
            let best = sweep(&problem);
            for isa in Isa::available() {
                let codes = sweep_on(isa, &problem);
                let equal = codes.iter().zip(&best).filter(|(a, b)| a == b).count();
                let share = equal as f64 / best.len() as f64;
                assert!(share > 0.99, "{format} on {}: {share}", isa.name());
            }
        }
    }
}
