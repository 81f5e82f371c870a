//! Group quantization: moments, the factor, the sweep, what measures it. Scales are held to the CPU's in `treillage-gpu`.

use treillage_shaders::Specialization;

use crate::harness::{
    Device, Params, Random, assert_close, bytes, device, run, specializations, text,
};

/// `[n, n]`, symmetric and well conditioned, of different sizes.
fn hessian(n: usize, seed: u64) -> Vec<f32> {
    let x = Random::new(seed).values(2 * n * n);
    let size = |i: usize| 0.3 + (i * 7 % 11) as f32;
    let mut h = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            let products = (0..2 * n).map(|t| x[t * n + i] * x[t * n + j]);
            h[i * n + j] = size(i) * size(j) * products.sum::<f32>() / n as f32;
        }
    }
    h
}

#[test]
fn syrk_is_the_product_of_columns() {
    let Some(device) = device() else { return };
    for (rows, width) in [(70, 130), (16, 64), (1, 3)] {
        let x = Random::new(1).values(rows * width);
        let params = Params::default().u(rows).u(width).f(0.25);
        let tiles = width.div_ceil(64);
        let buffers = [bytes(&x), vec![0; 4 * width * width]];
        let results = run(
            device,
            "quantize/syrk",
            &buffers,
            &params,
            [tiles, tiles, 1],
        );
        let mut expected = vec![0.0; width * width];
        for row in x.chunks_exact(width) {
            for (i, &a) in row.iter().enumerate() {
                for (j, &b) in row.iter().enumerate() {
                    expected[i * width + j] += 0.25 * f64::from(a) * f64::from(b);
                }
            }
        }
        assert_close("syrk", &results.of::<f32>(1), &expected, 1e-6);
    }
}

#[test]
fn transposing_turns_over() {
    let Some(device) = device() else { return };
    for (rows, columns) in [(37, 37), (16, 50), (33, 8)] {
        let x = Random::new(2).values(rows * columns);
        let buffers = [bytes(&x), vec![0; 4 * rows * columns]];
        let results = run(
            device,
            "quantize/transpose",
            &buffers,
            &Params::default().u(rows).u(columns),
            [columns.div_ceil(16), rows.div_ceil(16), 1],
        );
        let expected: Vec<f32> = (0..rows * columns)
            .map(|i| x[i % rows * columns + i / rows])
            .collect();
        assert_eq!(results.of::<f32>(1), expected);
    }
}

/// Order and state of a Hessian.
fn order(device: &Device, h: &[f32], n: usize, sorted: bool) -> (Vec<u32>, Vec<u32>) {
    let params = Params::default().u(n).u(sorted.into()).f(0.01);
    let buffers = [bytes(h), vec![0; 4 * n], vec![0; 8]];
    let grid = [n.div_ceil(64), 1, 1];
    let results = run(device, "quantize/order", &buffers, &params, grid);
    (results.of(1), results.of(2))
}

#[test]
fn order_is_by_falling_diagonal() {
    let Some(device) = device() else { return };
    let n = 150;
    let mut h = vec![0.0; n * n];
    for i in 0..n {
        // Many are equal.
        h[i * n + i] = 1.0 + (i * 7 % 13) as f32;
    }
    let diagonal = |i: u32| h[i as usize * (n + 1)];
    let mut expected: Vec<u32> = (0..n as u32).collect();
    let (own, state) = order(device, &h, n, false);
    assert_eq!(own, expected);
    expected.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)));
    assert_eq!(order(device, &h, n, true).0, expected);
    let mean = expected.iter().map(|&i| diagonal(i)).sum::<f32>() / n as f32;
    assert_close(
        "damping",
        &[f32::from_bits(state[0])],
        &[0.01 * f64::from(mean)],
        1e-6,
    );
    assert_eq!(state[1], 0);
    for strange in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let mut h = h.clone();
        h[70 * (n + 1)] = strange;
        let (mut order, state) = order(device, &h, n, true);
        assert_eq!(state[1], 1, "{strange}");
        order.sort_unstable();
        assert!(order.into_iter().eq(0..n as u32), "{strange}");
    }
}

/// The factor that kernels make of `h`: `[n, n]`, what they say of its diagonal, and whether it failed.
fn factorize(device: &Device, h: &[f32], order: &[u32], damping: f32) -> [Vec<f32>; 2] {
    let n = order.len();
    let state = [damping.to_bits(), 0];
    let buffers = [bytes(h), bytes(order), bytes(&state), vec![0; 4 * n * n]];
    let params = Params::default().u(n);
    let gathered = run(
        device,
        "quantize/gather",
        &buffers,
        &params,
        [n.div_ceil(256), n, 1],
    );
    let mut matrix = gathered.of::<f32>(3);
    let (mut lower, mut importance) = (vec![0f32; n * n], vec![0f32; n]);
    for first in (0..n).step_by(32) {
        let params = Params::default().u(n).u(first);
        let tiles = n.saturating_sub(first + 32).div_ceil(64);
        let buffers = [
            bytes(&matrix),
            bytes(&lower),
            bytes(&importance),
            bytes(order),
            bytes(&state),
        ];
        let results = run(
            device,
            "quantize/panel",
            &buffers,
            &params,
            [tiles.max(1), 1, 1],
        );
        (lower, importance) = (results.of(1), results.of(2));
        assert_eq!(results.of::<u32>(4)[1], 0);
        if tiles > 0 {
            let buffers = [bytes(&lower), bytes(&matrix)];
            let results = run(
                device,
                "quantize/update",
                &buffers,
                &params,
                [tiles, tiles, 1],
            );
            matrix = results.of(1);
        }
    }
    [lower, importance]
}

#[test]
fn factors_multiply_out_to_the_damped_hessian() {
    let Some(device) = device() else { return };
    for n in [20, 64, 141] {
        let h = hessian(n, 3);
        let order: Vec<u32> = (0..n as u32).map(|i| (7 * i + 3) % n as u32).collect();
        let [lower, importance] = factorize(device, &h, &order, 0.5);
        // V of step j and i: the factor turned round.
        let v = |j: usize, i: usize| f64::from(lower[(n - 1 - j) * n + n - 1 - i]);
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for i in 0..n {
            for j in 0..n {
                let products = (i.max(j)..n).map(|k| v(i, k) * v(j, k));
                found.push(products.sum::<f64>() as f32);
                let damping = if i == j { 0.5 } else { 0.0 };
                let at = order[i] as usize * n + order[j] as usize;
                expected.push(f64::from(h[at]) + damping);
            }
            let square = v(i, i).powi(2);
            let own = importance[order[i] as usize];
            assert_close("importance", &[own], &[square], 1e-6);
        }
        assert_close("V Vᵀ", &found, &expected, 1e-6);
    }
}

#[test]
fn a_pivot_that_is_not_positive_is_told() {
    let Some(device) = device() else { return };
    let n = 40;
    for (bad, at) in [(-3.0, 35), (f32::NAN, 2)] {
        let mut matrix = vec![0f32; n * n];
        (0..n).for_each(|i| matrix[i * (n + 1)] = 1.0);
        matrix[at * (n + 1)] = bad;
        let order: Vec<u32> = (0..n as u32).collect();
        let buffers = [
            bytes(&matrix),
            vec![0; 4 * n * n],
            vec![0; 4 * n],
            bytes(&order),
            vec![0; 8],
        ];
        let params = Params::default().u(n).u(at / 32 * 32);
        let results = run(device, "quantize/panel", &buffers, &params, [1, 1, 1]);
        assert_eq!(results.of::<u32>(4)[1], 1, "{bad}");
    }
}

/// What a weight in units of its scale is rounded to, and its code.
fn rounded(grid: &str, x: f64, zero: f64) -> (f64, u32) {
    if grid == "int" {
        let value = x.clamp(-zero, 15.0 - zero).round_ties_even();
        return (value, (value + zero) as u32);
    }
    const MAGNITUDES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let nearest = (0..8).min_by(|&a, &b| {
        let [a, b] = [a, b].map(|i: usize| (MAGNITUDES[i] - x.abs()).abs());
        a.total_cmp(&b)
    });
    let code = nearest.unwrap_or_default();
    let is_negative = x < 0.0 && code > 0;
    let sign = if is_negative { -1.0 } else { 1.0 };
    let code = code as u32 | u32::from(is_negative) << 3;
    (sign * MAGNITUDES[code as usize & 7], code)
}

#[test]
fn sweeps_make_up_for_errors() {
    let Some(device) = device() else { return };
    for specialization in specializations(device, "quantize/sweep") {
        let grid = text(&specialization, "GRID");
        for (outputs, n, group) in [(19, 300, 20), (3, 128, 64)] {
            sweep(device, &specialization, grid, [outputs, n, group]);
        }
    }
}

fn sweep(
    device: &Device,
    specialization: &Specialization,
    grid: &str,
    [outputs, n, group]: [usize; 3],
) {
    let groups = n / group;
    let top = if grid == "int" { 15.0 } else { 6.0 };
    let mut random = Random::new(4);
    let order: Vec<u32> = (0..n as u32).map(|i| (77 * i + 5) % n as u32).collect();
    let weights = random.values(outputs * n);
    let mut lower = vec![0f32; n * n];
    for i in 0..n {
        for j in 0..=i {
            // Small, so that errors stay where codes are.
            lower[i * n + j] = if i == j {
                1.0 + 0.2 * random.value()
            } else {
                0.1 * random.value()
            };
        }
    }
    let step = if grid == "int" { 0.12 } else { 0.2 };
    let scales: Vec<f32> = (0..outputs * groups)
        .map(|_| step * (1.0 + 0.3 * random.value()))
        .collect();
    let rungs: Vec<u32> = (0..outputs * groups)
        .map(|i| {
            if grid == "int" {
                (6 + i as u32 % 4) << 16 | 77
            } else {
                77
            }
        })
        .collect();
    let (mut sums, mut errors) = (vec![0f32; outputs * n], vec![0f32; outputs * n]);
    let mut codes = vec![0u32; outputs * n];
    for first in (0..n).step_by(128) {
        let buffers = [
            bytes(&weights),
            bytes(&order),
            bytes(&lower),
            bytes(&scales),
            bytes(&rungs),
            bytes(&sums),
            bytes(&errors),
            bytes(&codes),
        ];
        let params = Params::default().u(outputs).u(n).u(group).u(first).f(top);
        let swept = device.run(
            "quantize/sweep",
            specialization,
            &buffers,
            params.bytes(),
            [outputs.div_ceil(16), 1, 1],
        );
        (errors, codes) = (swept.of(6), swept.of(7));
        let later = n.saturating_sub(first + 128);
        if later > 0 {
            let buffers = [bytes(&errors), bytes(&lower), bytes(&sums)];
            let params = Params::default().u(outputs).u(n).u(first);
            let grid = [later.div_ceil(64), outputs.div_ceil(64), 1];
            sums = run(device, "quantize/feedback", &buffers, &params, grid).of(2);
        }
    }
    // Each step in f64 after the errors that the device made before it, so that no tie has consequences.
    let mut other = 0;
    for output in 0..outputs {
        for i in 0..n {
            let input = order[i] as usize;
            let v = |j: usize| f64::from(lower[(n - 1 - j) * n + n - 1 - i]);
            let pull: f64 = (0..i)
                .map(|j| f64::from(errors[output * n + j]) * v(j))
                .sum();
            let at = output * groups + input / group;
            let (scale, zero) = (f64::from(scales[at]), f64::from(rungs[at] >> 16));
            let weight = f64::from(weights[output * n + input]);
            let (value, code) = rounded(grid, (weight + pull / v(i)) / scale, zero);
            if code == codes[output * n + input] {
                let error = weight - value * scale;
                let off = (f64::from(errors[output * n + i]) - error).abs();
                assert!(off < 1e-5 * scale, "{grid}: error {error} is off by {off}");
            } else {
                other += 1;
            }
        }
    }
    assert!(
        other * 1000 < outputs * n,
        "{grid}: {other} of {}",
        outputs * n
    );
    assert!(codes.iter().any(|&code| code != codes[0]));
}

#[test]
fn codes_are_packed_in_order() {
    let Some(device) = device() else { return };
    let mut random = Random::new(5);
    for (count, bits) in [(19usize, 4), (2051, 4), (1026, 8)] {
        let codes: Vec<u32> = (0..count).map(|_| random.below(1 << bits) as u32).collect();
        let each = 32 / bits;
        let words = count.div_ceil(each);
        let buffers = [bytes(&codes), vec![0; 4 * words]];
        let params = Params::default().u(count).u(bits);
        let grid = [1, words.div_ceil(256), 1];
        let results = run(device, "quantize/pack", &buffers, &params, grid);
        let pack =
            |codes: &[u32]| (codes.iter().enumerate()).fold(0, |w, (i, c)| w | c << (bits * i));
        let expected: Vec<u32> = codes.chunks(each).map(pack).collect();
        assert_eq!(results.of::<u32>(1), expected);
    }
}

#[test]
fn the_largest_magnitude_is_found() {
    let Some(device) = device() else { return };
    for count in [1, 700, 5000] {
        let mut values = Random::new(6).values(count);
        values[count / 2] = -2.5;
        let buffers = [bytes(&values), vec![0; 8]];
        let params = Params::default().u(count);
        let results = run(device, "quantize/largest", &buffers, &params, [2, 1, 1]);
        assert_eq!(results.of::<u32>(1), [2.5f32.to_bits(), 0]);
    }
}

#[test]
fn energy_is_the_trace() {
    let Some(device) = device() else { return };
    for (outputs, n) in [(5, 20), (70, 130)] {
        let (values, h) = (Random::new(7).values(outputs * n), hessian(n, 8));
        let order: Vec<u32> = (0..n as u32).map(|i| (7 * i + 3) % n as u32).collect();
        for ordered in [false, true] {
            let grid = [n.div_ceil(64), outputs.div_ceil(64), 1];
            let sums = vec![0; 4 * grid[0] * grid[1]];
            let buffers = [bytes(&values), bytes(&h), bytes(&order), sums];
            let params = Params::default().u(outputs).u(n).u(ordered.into());
            let results = run(device, "quantize/energy", &buffers, &params, grid);
            let found: f32 = results.of::<f32>(3).iter().sum();
            let input = |i: usize| if ordered { order[i] as usize } else { i };
            let mut expected = 0.0;
            for row in values.chunks_exact(n) {
                for i in 0..n {
                    for j in 0..n {
                        let moment = f64::from(h[input(i) * n + input(j)]);
                        expected += f64::from(row[i]) * f64::from(row[j]) * moment;
                    }
                }
            }
            assert_close("energy", &[found], &[expected], 1e-5);
        }
    }
}
