//! The sweep against what an independent implementation in numpy made of the same linears: data/make_solver_golden.py.
// Helpers outside of test functions are test code too.
#![allow(clippy::unwrap_used)]

use nalgebra::DMatrix;
use serde_json::Value;
use treillage_gptq::{Config, Format, IntBits, MxRule, Rotation, ScaleRule, quantize_linear};
use treillage_linalg::Hessian;

/// Whole numbers from −16 to 15: the top bits of a linear congruential generator, as the script draws them.
fn draws(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 59) as f32 - 16.0
        })
        .collect()
}

/// Weights of shape (in, out).
fn weights(inputs: usize, outputs: usize) -> DMatrix<f32> {
    let (coarse, fine) = (draws(inputs * outputs, 1), draws(inputs * outputs, 2));
    let values = coarse.iter().zip(&fine).map(|(a, b)| (a + b / 32.0) / 64.0);
    DMatrix::from_iterator(inputs, outputs, values)
}

fn second_moment(inputs: usize, tokens: usize) -> DMatrix<f32> {
    let mut x = draws(tokens * inputs, 3);
    for row in x.chunks_exact_mut(inputs) {
        // Backwards, so that each adds what its neighbour was.
        for i in (1..inputs).rev() {
            row[i] += (row[i - 1] / 2.0).trunc();
        }
        row.iter_mut().skip(3).step_by(7).for_each(|x| *x *= 3.0);
    }
    let mut hessian = Hessian::new(inputs);
    hessian.update(&x).unwrap();
    hessian.mean()
}

fn config(case: &Value) -> Config {
    let (format, mx_rule) = match case["format"].as_str().unwrap() {
        "int4" => (Format::Int(IntBits::Four), MxRule::Ocp),
        "int3" => (Format::Int(IntBits::Three), MxRule::Ocp),
        "fp4" => (Format::Fp4, MxRule::Ocp),
        "nvfp4" => (Format::NvFp4, MxRule::Ocp),
        "mxfp4" => (Format::MxFp4, MxRule::FpQuant),
        "mxfp4 ocp" => (Format::MxFp4, MxRule::Ocp),
        other => panic!("{other}"),
    };
    Config {
        group: case["group"].as_u64().unwrap() as usize,
        rotation: match case["rotation"].as_u64() {
            Some(block) => Rotation::Block(block as usize),
            None => Rotation::None,
        },
        act_order: case["act_order"].as_bool().unwrap(),
        scales: ScaleRule::Minmax,
        four_over_six: false,
        mx_rule,
        ..Config::new(format)
    }
}

#[test]
fn codes_are_those_of_another_implementation() {
    let golden: Value = serde_json::from_str(include_str!("data/solver.json")).unwrap();
    let size = |name: &str| golden[name].as_u64().unwrap() as usize;
    let (inputs, outputs) = (size("inputs"), size("outputs"));
    let weights = weights(inputs, outputs);
    let hessian = second_moment(inputs, size("tokens"));
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 24);
    for case in cases {
        let config = config(case);
        let quantized = quantize_linear(&weights, Some(&hessian), &config).unwrap();
        let halves = case["halves"].as_str().unwrap().as_bytes();
        let mut row = vec![0.0; inputs];
        let mut equal = 0;
        for (output, halves) in halves.chunks_exact(inputs).enumerate() {
            quantized.linear.decode_row(output, &mut row);
            for (input, (&value, &half)) in row.iter().zip(halves).enumerate() {
                let group = output * quantized.linear.groups() + input / config.group;
                let scale = quantized.linear.parts().scales.get(group);
                let theirs = f32::from(i16::from(half) - i16::from(b'a') - 16) / 2.0;
                equal += usize::from((value / scale - theirs).abs() < 1e-4);
            }
        }
        // A target that lies within rounding of a tie may fall otherwise, and change what follows in its output.
        let share = equal as f64 / halves.len() as f64;
        assert!(
            share > 0.99,
            "{} {:?}: {share}",
            config.format,
            config.rotation
        );
        let error = case["error"].as_f64().unwrap();
        let ratio = quantized.report.relative_error / error;
        assert!((ratio - 1.0).abs() < 2e-3, "{}: {ratio}", config.format);
    }
}
