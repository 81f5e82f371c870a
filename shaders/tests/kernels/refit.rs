//! Scales that fit codes best. The whole of it is held to the CPU's in `treillage-gpu`.

use half::f16;

use crate::harness::{Params, Random, assert_close, bytes, device, run, specializations};

const OUTPUTS: usize = 128;
const INPUTS: usize = 64;

/// The second moment of 96 rows, times 96, symmetric to the bit.
fn moment(n: usize, seed: u64) -> Vec<f32> {
    let x = Random::new(seed).values(96 * n);
    let sum = |i: usize, j: usize| {
        let products = (0..96).map(|t| f64::from(x[t * n + i]) * f64::from(x[t * n + j]));
        products.sum::<f64>() as f32
    };
    (0..n * n).map(|at| sum(at / n, at % n)).collect()
}

/// `a`, `[rows, n]`, times `b`, `[n, columns]`.
fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let columns = b.len() / n;
    let rows = a.chunks_exact(n);
    let sum = |row: &[f64], column| (0..n).map(|k| row[k] * b[k * columns + column]).sum();
    rows.flat_map(|row| (0..columns).map(move |column| sum(row, column)))
        .collect()
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// `a`, `[rows, n]`, with its columns times `scales`.
fn scaled(a: &[f32], scales: &[f32]) -> Vec<f64> {
    let all = a.iter().zip(scales.iter().cycle());
    all.map(|(a, s)| f64::from(*a) * f64::from(*s)).collect()
}

fn damped(hessian: &[f32], damping: f64) -> Vec<f64> {
    let mut damped = doubles(hessian);
    let diagonal = damped.iter_mut().step_by(INPUTS + 1);
    diagonal.for_each(|h| *h += damping);
    damped
}

#[test]
fn linears_are_pulled_by_the_moment() {
    let Some(device) = device() else { return };
    let linear = Random::new(1).values(OUTPUTS * INPUTS);
    let scales = Random::new(2).values(INPUTS);
    let hessian = moment(INPUTS, 3);
    let buffers = [
        bytes(&linear),
        bytes(&scales),
        bytes(&hessian),
        vec![0; 4 * OUTPUTS * INPUTS],
    ];
    let params = Params::default().u(INPUTS).f(0.5);
    let grid = [INPUTS / 64, OUTPUTS / 64, 1];
    let results = run(device, "refit/pull", &buffers, &params, grid);
    let expected = product(&scaled(&linear, &scales), &damped(&hessian, 0.5), INPUTS);
    assert_close("pulled", &results.of::<f32>(3), &expected, 1e-5);
}

#[test]
fn the_equations_of_input_scales_are_of_least_squares() {
    let Some(device) = device() else { return };
    let linear = Random::new(4).values(OUTPUTS * INPUTS);
    let scales = Random::new(5).values(OUTPUTS);
    let hessian = moment(INPUTS, 6);
    let buffers = [
        bytes(&linear),
        bytes(&scales),
        bytes(&hessian),
        vec![0; 4 * INPUTS * INPUTS],
    ];
    let params = Params::default().u(OUTPUTS).u(INPUTS).f(0.25);
    let grid = [INPUTS / 64, INPUTS / 64, 1];
    let results = run(device, "refit/normal", &buffers, &params, grid);
    let value = |row: usize, i: usize| f64::from(scales[row]) * f64::from(linear[row * INPUTS + i]);
    let metric = damped(&hessian, 0.25);
    let expected: Vec<f64> = (0..INPUTS * INPUTS)
        .map(|at| {
            let (i, j) = (at / INPUTS, at % INPUTS);
            let products = (0..OUTPUTS).map(|row| value(row, i) * value(row, j));
            metric[at] * products.sum::<f64>()
        })
        .collect();
    assert_close("matrix", &results.of::<f32>(3), &expected, 1e-5);

    let pulled = Random::new(7).values(OUTPUTS * INPUTS);
    let buffers = [
        bytes(&linear),
        bytes(&scales),
        bytes(&pulled),
        vec![0; 4 * INPUTS],
    ];
    let params = Params::default().u(OUTPUTS).u(INPUTS);
    let grid = [INPUTS / 32, 1, 1];
    let results = run(device, "refit/wanted", &buffers, &params, grid);
    let expected: Vec<f64> = (0..INPUTS)
        .map(|i| {
            let products =
                (0..OUTPUTS).map(|row| value(row, i) * f64::from(pulled[row * INPUTS + i]));
            products.sum()
        })
        .collect();
    assert_close("right side", &results.of::<f32>(3), &expected, 1e-5);
}

#[test]
fn conjugate_gradients_find_the_solution_in_half_precision() {
    let Some(device) = device() else { return };
    let n = INPUTS;
    // As equations of scales are: the diagonal is most of them. An unknown that none has anything to do with stays what it is.
    let mut matrix = moment(n, 8);
    matrix.iter_mut().step_by(n + 1).for_each(|m| *m += 96.0);
    let free = 11;
    for i in 0..n {
        matrix[free * n + i] = 0.0;
        matrix[i * n + free] = 0.0;
    }
    let mut truth = Random::new(9).values(n);
    truth[free] = 0.75;
    // Below the least normal number of half precision, and beyond its largest.
    truth[20] = 3.3e-5;
    truth[21] = 1e5;
    let wanted: Vec<f32> = product(&doubles(&matrix), &doubles(&truth), n)
        .into_iter()
        .map(|w| w as f32)
        .collect();
    let mut before = vec![1.0f32; n];
    before[free] = 0.75;
    before[3] = 0.0;
    for specialization in specializations(device, "refit/step") {
        let mut state = [vec![0; 4 * (2 * n + 1)], vec![0; 4 * n], vec![0; 4 * n]];
        let mut from = bytes(&before);
        for step in 0..20 {
            let buffers = [bytes(&matrix), from, vec![0; 4 * n]];
            let params = Params::default().u(n);
            let results = run(device, "refit/times", &buffers, &params, [50, 2, 1]);
            let image: Vec<f32> = results.of(2);
            let [state_before, direction, scales] = state;
            let buffers = [
                bytes(&matrix),
                bytes(&wanted),
                bytes(&before),
                bytes(&image),
                state_before,
                direction,
                scales,
            ];
            let params = params.u(usize::from(step == 0));
            let name = "refit/step";
            let results = device.run(name, &specialization, &buffers, params.bytes(), [1, 1, 1]);
            state = [4, 5, 6].map(|binding| bytes(&results.of::<f32>(binding)));
            from = state[1].clone();
        }
        let [state, _, scales] = state;
        let found: Vec<f32> = bytemuck::pod_collect_to_vec(&state[..4 * n]);
        let scales: Vec<f32> = bytemuck::pod_collect_to_vec(&scales);
        for i in 0..n {
            let error = (found[i] - truth[i]).abs();
            // Beside the largest of them.
            assert!(
                error < 1e-6 * 1e5,
                "{i}: {} instead of {}",
                found[i],
                truth[i]
            );
            let expected = match i {
                3 => 0.0,
                21 => 1.0,
                _ => f16::from_f32(found[i]).to_f32(),
            };
            assert_eq!(scales[i], expected, "{i}: {}", found[i]);
        }
    }
}

#[test]
fn output_scales_fit_best_and_errors_are_what_is_left() {
    let Some(device) = device() else { return };
    let (n, damping) = (INPUTS, 0.5);
    let linear = Random::new(10).values(OUTPUTS * n);
    let inputs = Random::new(11).values(n);
    let hessian = moment(n, 12);
    let noise = Random::new(13).values(OUTPUTS * n);
    let factors = Random::new(14).values(OUTPUTS);
    let stored = scaled(&linear, &inputs);
    let mut weights: Vec<f32> = (0..OUTPUTS * n)
        .map(|at| factors[at / n] * stored[at] as f32 + 0.01 * noise[at])
        .collect();
    weights[5 * n..6 * n].fill(0.0);
    let metric = damped(&hessian, damping);
    let pulled = product(&stored, &metric, n);
    let pulled_weights = product(&doubles(&weights), &metric, n);
    let single = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let mut before = vec![0.5f32; OUTPUTS];
    before[9] = 0.0;
    let buffers = [
        bytes(&linear),
        bytes(&inputs),
        bytes(&weights),
        bytes(&single(&pulled)),
        bytes(&single(&pulled_weights)),
        bytes(&before),
        vec![0; 12 * OUTPUTS],
    ];
    let rows = |values: &[f64], row: usize| values[row * n..(row + 1) * n].to_vec();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for specialization in specializations(device, "refit/outputs") {
        for refit in [true, false] {
            let params = Params::default().u(OUTPUTS).u(n);
            let params = params.f(damping as f32).u(refit.into());
            let name = "refit/outputs";
            // More workgroups than outputs.
            let grid = [50, 3, 1];
            let results = device.run(name, &specialization, &buffers, params.bytes(), grid);
            for (row, found) in results.of::<f32>(6).chunks_exact(3).enumerate() {
                let (v, w) = (rows(&stored, row), rows(&doubles(&weights), row));
                let own = dot(&v, &rows(&pulled, row));
                let best = dot(&v, &rows(&pulled_weights, row)) / own;
                let scale = match row {
                    _ if !refit => f64::from(before[row]),
                    9 => 0.0,
                    _ => f16::from_f64(best).to_f64(),
                };
                assert!(
                    (f64::from(found[0]) - scale).abs() <= 1e-3 * scale.abs(),
                    "{row}"
                );
                let scale = f64::from(found[0]);
                let errors: Vec<f64> = v.iter().zip(&w).map(|(v, w)| scale * v - w).collect();
                let hessian = doubles(&hessian);
                let left = dot(&errors, &product(&errors, &hessian, n));
                let all = dot(&w, &product(&w, &hessian, n));
                assert_close("error", &found[1..2], &[left], 1e-4);
                assert_close("size", &found[2..], &[all], 1e-5);
            }
        }
    }
}
