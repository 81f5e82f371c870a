//! Codes with a scale per group made on the device.

use std::sync::Arc;

use nalgebra::DMatrix;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use treillage_backend::{EncodeJob, Error, LinearShape, Quantization};
use treillage_cpu::CpuBackend;
use treillage_gptq::{
    Config, Fallback, Format, GroupedLinear, IntBits, MxRule, Rotation, ScaleRule, ScaleType,
    Solver, relative_error,
};
use treillage_gpu::quantize::{encode_grouped, second_moment};

use crate::support::each_mode;

/// Values between −1 and 1, the middle likelier than the ends.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut value = || rng.random::<f32>() + rng.random::<f32>() - 1.0;
    (0..count).map(|_| value()).collect()
}

/// Activations `[tokens, inputs]` that go together, of different size.
fn activations(tokens: usize, inputs: usize, seed: u64) -> Vec<f32> {
    let own = values(tokens * inputs, seed);
    let common = values(tokens, seed + 1);
    (0..tokens * inputs)
        .map(|i| {
            let (token, input) = (i / inputs, i % inputs);
            let size = 0.2 + (input * 37 % 101) as f32 / 50.0;
            size * (own[i] + common[token])
        })
        .collect()
}

fn moment(x: &[f32], inputs: usize) -> DMatrix<f32> {
    let rows = DMatrix::from_column_slice(inputs, x.len() / inputs, x);
    let mean = rows.map(f64::from);
    (&mean * mean.transpose() / (x.len() / inputs) as f64).map(|h| h as f32)
}

fn job(
    config: &Config,
    hessian: &Arc<DMatrix<f32>>,
    outputs: usize,
    seed: u64,
) -> EncodeJob<Config> {
    let inputs = hessian.nrows();
    EncodeJob {
        name: format!("linear {seed}"),
        weights: values(outputs * inputs, seed),
        shape: LinearShape {
            in_features: inputs,
            out_features: outputs,
        },
        hessian: Some(Arc::clone(hessian)),
        config: config.clone(),
    }
}

fn equal<T: PartialEq>(a: &[T], b: &[T]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

fn scales(linear: &GroupedLinear) -> Vec<f32> {
    linear.parts().scales.to_f32()
}

fn cpu() -> CpuBackend {
    CpuBackend::new(treillage_cpu::Options::default())
}

/// All formats, both rules, orders, rotations.
fn configs() -> Vec<Config> {
    let int4 = Config::new(Format::Int(IntBits::Four));
    let minmax = |format| Config {
        scales: ScaleRule::Minmax,
        ..Config::new(format)
    };
    vec![
        Config {
            scales: ScaleRule::Minmax,
            ..int4.clone()
        },
        int4.clone(),
        Config {
            act_order: false,
            symmetric: false,
            group: 32,
            ..int4.clone()
        },
        Config {
            scale_type: ScaleType::Bf16,
            rotation: Rotation::Block(32),
            ..Config::new(Format::Int(IntBits::Three))
        },
        Config {
            group: 256,
            ..Config::new(Format::Int(IntBits::Eight))
        },
        Config {
            symmetric: false,
            ..minmax(Format::Int(IntBits::Two))
        },
        Config::new(Format::NvFp4),
        Config {
            rotation: Rotation::Block(128),
            ..minmax(Format::NvFp4)
        },
        Config {
            global_scale: Some(2000.0),
            four_over_six: false,
            ..Config::new(Format::NvFp4)
        },
        Config::new(Format::MxFp4),
        Config {
            mx_rule: MxRule::CompressedTensors,
            rotation: Rotation::Block(16),
            ..minmax(Format::MxFp4)
        },
        Config {
            mx_rule: MxRule::FpQuant,
            rotation: Rotation::Block(64),
            ..minmax(Format::MxFp4)
        },
        Config::new(Format::Fp4),
    ]
}

#[test]
fn codes_are_the_cpus_but_for_ties() {
    // More than one block and one panel, and none of them whole.
    let (inputs, outputs) = (256 + 128, 37);
    let hessian = Arc::new(moment(&activations(900, inputs, 1), inputs));
    each_mode(|context, mode| {
        for mut config in configs() {
            if config.group == 256 {
                config.group = inputs;
            }
            let jobs = || vec![job(&config, &hessian, outputs, 3)];
            let expected = &cpu().encode_grouped(jobs()).unwrap()[0];
            let found = &encode_grouped(context, jobs()).unwrap()[0];
            let what = format!("{mode:?} {config:?}");
            let (a, b) = (found.linear.parts(), expected.linear.parts());
            assert_eq!(a.rotation, b.rotation, "{what}");
            let same = equal(&scales(&found.linear), &scales(&expected.linear));
            assert!(same > 0.99, "{what}: {same} of scales");
            assert_eq!(a.zeros.is_some(), b.zeros.is_some(), "{what}");
            if let (Some(a), Some(b)) = (&a.zeros, &b.zeros) {
                assert!(equal(a, b) > 0.99, "{what}: zeros");
            }
            let same = equal(&a.codes, &b.codes);
            assert!(same > 0.95, "{what}: {same} of codes");
            let (error, cpus) = (found.report.relative_error, expected.report.relative_error);
            assert!(
                (error / cpus - 1.0).abs() < 0.01,
                "{what}: {error}, the CPU's {cpus}"
            );
            let weights = DMatrix::from_vec(inputs, outputs, values(outputs * inputs, 3));
            let real = relative_error(&weights, &found.linear, Some(&hessian)).unwrap();
            assert!(
                (error / real - 1.0).abs() < 1e-3,
                "{what}: {error} is {real}"
            );
            let damping = found.report.damping / expected.report.damping;
            assert!((damping - 1.0).abs() < 1e-5, "{what}: damping {damping}");
            assert_eq!(found.report.fallback, None);
        }
    });
}

#[test]
fn rotated_linears_have_any_number_of_outputs() {
    let (inputs, outputs) = (32, 65_536 + 16);
    let hessian = Arc::new(moment(&activations(100, inputs, 1), inputs));
    let config = Config {
        group: 32,
        rotation: Rotation::Block(16),
        ..Config::new(Format::Int(IntBits::Four))
    };
    each_mode(|context, mode| {
        let jobs = || vec![job(&config, &hessian, outputs, 3)];
        let expected = &cpu().encode_grouped(jobs()).unwrap()[0];
        let found = &encode_grouped(context, jobs()).unwrap()[0];
        let same = equal(&found.linear.parts().codes, &expected.linear.parts().codes);
        assert!(same > 0.95, "{mode:?}: {same} of codes");
        let error = found.report.relative_error / expected.report.relative_error;
        assert!((error - 1.0).abs() < 0.01, "{mode:?}: {error}");
    });
}

#[test]
fn moments_are_those_of_the_rows() {
    each_mode(|context, mode| {
        for (tokens, inputs) in [(150, 70), (33, 128), (1, 5)] {
            let x = activations(tokens, inputs, 5);
            let rows = context.tensor(tokens, inputs).unwrap();
            context
                .recorder
                .write(&rows.slice(), bytemuck::cast_slice(&x));
            let found = context
                .read(&second_moment(context, &rows).unwrap())
                .unwrap();
            let expected = moment(&x, inputs);
            let largest = expected.amax();
            for (i, (found, &expected)) in found.iter().zip(expected.as_slice()).enumerate() {
                let size = expected.abs().max(largest * 1e-2);
                let error = (found - expected).abs() / size;
                assert!(error < 1e-4, "{mode:?} {tokens} x {inputs}, {i}: {error}");
            }
        }
    });
}

#[test]
fn jobs_keep_their_order_and_leave_one_another_alone() {
    let hessians = [1, 2].map(|seed| Arc::new(moment(&activations(300, 128, seed), 128)));
    let config = Config::new(Format::Int(IntBits::Four));
    let other = Config::new(Format::NvFp4);
    let jobs = || {
        vec![
            job(&config, &hessians[0], 20, 1),
            job(&config, &hessians[0], 33, 2),
            job(&other, &hessians[0], 16, 3),
            job(&config, &hessians[1], 1, 4),
        ]
    };
    each_mode(|context, mode| {
        let together = encode_grouped(context, jobs()).unwrap();
        for (job, together) in jobs().into_iter().zip(&together) {
            let name = job.name.clone();
            let alone = encode_grouped(context, vec![job]).unwrap();
            assert_eq!(&alone[0], together, "{mode:?} {name}");
        }
        assert!(encode_grouped(context, Vec::new()).unwrap().is_empty());
    });
}

/// What the device leaves to the CPU is what the CPU makes of it, to the bit.
#[test]
fn the_rest_is_left_to_the_cpu() {
    let inputs = 64;
    let hessian = moment(&activations(200, inputs, 1), inputs);
    let config = Config {
        group: 32,
        ..Config::new(Format::Int(IntBits::Four))
    };
    let nearest = Config {
        solver: Solver::Rtn,
        ..config.clone()
    };
    let mut dead = hessian.clone();
    dead.row_mut(7).fill(0.0);
    dead.column_mut(7).fill(0.0);
    let mut indefinite = hessian.clone();
    (indefinite[(3, 4)], indefinite[(4, 3)]) = (90.0, 90.0);
    let with =
        |config: &Config, hessian: &DMatrix<f32>| job(config, &Arc::new(hessian.clone()), 18, 1);
    each_mode(|context, mode| {
        for (what, config, hessian, fallback) in [
            ("nearest", &nearest, &hessian, None),
            ("dead", &config, &dead, None),
            (
                "indefinite",
                &config,
                &indefinite,
                Some(Fallback::Indefinite),
            ),
        ] {
            let job = || with(config, hessian);
            let found = encode_grouped(context, vec![job()]).unwrap();
            assert_eq!(
                found,
                cpu().encode_grouped(vec![job()]).unwrap(),
                "{mode:?} {what}"
            );
            assert_eq!(found[0].report.fallback, fallback, "{mode:?} {what}");
        }
        let uncalibrated = || {
            let mut job = with(&config, &hessian);
            job.hessian = None;
            job
        };
        let found = encode_grouped(context, vec![uncalibrated()]).unwrap();
        assert_eq!(found[0].report.fallback, Some(Fallback::Uncalibrated));
        // Errors name the linear.
        let mut large = with(&config, &hessian);
        large.weights[5] = 1e9;
        let mut strange = with(&config, &hessian);
        strange.weights[9] = f32::NAN;
        let mut odd = with(&config, &hessian);
        odd.config.group = 48;
        for (mut job, name) in [(large, "large"), (strange, "strange"), (odd, "odd")] {
            name.clone_into(&mut job.name);
            let error = encode_grouped(context, vec![job]).unwrap_err();
            assert!(
                matches!(&error, Error::EncodeGrouped { linear, .. } if linear == name),
                "{mode:?} {name}: {error}"
            );
        }
    });
}
