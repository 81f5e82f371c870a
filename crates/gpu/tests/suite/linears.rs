//! Linears of every format against their own dequantized matrices, in f64.

mod random;
mod reference;

use treillage_backend::{DenseData, LinearShape, LinearWeights};
use treillage_gptq::{Element, IntBits, Rotation};
use treillage_gpu::linear::{ExpertRows, Linear, project, project_experts, uses_matrices};
use treillage_gpu::{AdapterKind, Context, Mode, Options, Tensor};
use treillage_trellis::Codebook;

use random::Rng;
use reference::{assert_close, product};

/// Exact activations: weights are not rounded to half precision, sums are in f32.
const EXACT: f64 = 1e-3;
/// Sums of up to 128 products in half precision: of MCG and 3INST, up to four rows.
const HALVES: f64 = 2e-3;
/// Eight bits of magnitude and a sign.
const BYTES: f64 = 8e-3;
/// Everything in f32.
const FLOATS: f64 = 1e-5;

fn tensor(context: &Context, values: &[f32], width: usize) -> Tensor {
    let tensor = context.tensor(values.len() / width, width).unwrap();
    context
        .recorder
        .write(&tensor.slice(), bytemuck::cast_slice(values));
    tensor
}

/// Every way in which kernels are made, on one adapter.
fn contexts() -> Vec<(&'static str, Context)> {
    let options = Options::default();
    let ways = [
        ("trusted", options),
        (
            "checked",
            Options {
                mode: Mode::Checked,
                ..options
            },
        ),
        (
            "without subgroups",
            Options {
                without_subgroups: true,
                without_tiny_halves: true,
                ..options
            },
        ),
    ];
    let open =
        |(name, options)| crate::support::open(options).map(|gpu| (name, Context::new(&gpu)));
    ways.into_iter().filter_map(open).collect()
}

/// How far products of many rows by groups may be off: matrix units take halves.
fn many_groups(context: &Context) -> f64 {
    match uses_matrices(context).unwrap() {
        true => EXACT,
        false => FLOATS,
    }
}

fn one(options: Options) -> Option<Context> {
    crate::support::open(options).map(|gpu| Context::new(&gpu))
}

#[test]
fn every_rate_and_codebook() {
    let Some(context) = one(Options::default()) else {
        return;
    };
    let Some(exact) = one(Options {
        exact: true,
        ..Options::default()
    }) else {
        return;
    };
    let shape = LinearShape {
        in_features: 200,
        out_features: 150,
    };
    let mut rng = Rng(1);
    for bits in 1..=8 {
        for codebook in Codebook::ALL {
            let weights = rng.trellis(shape, bits, codebook, bits % 2 == 0);
            // Kernels are long to compile where a CPU is the device: those for several rows, and exact ones, at one rate, and the
            // longest with one codebook.
            let counts: &[usize] = match (bits, codebook) {
                (3, Codebook::Mul1) => &[1, 2, 5, 16, 40],
                (3, _) => &[1, 2, 5],
                _ => &[1],
            };
            for &rows in counts {
                let what = format!("K = {bits}, {codebook}, {rows} rows");
                let x = rng.values(rows * shape.in_features);
                let expected = product(&weights, shape, &x);
                for context in [&context, &exact] {
                    if bits != 3 && context.gpu().options().exact {
                        continue;
                    }
                    let tolerance = match (rows, codebook) {
                        _ if context.gpu().options().exact => EXACT,
                        (1, Codebook::Mul1) => BYTES,
                        (1..=4, Codebook::Mcg | Codebook::ThreeInst) => HALVES,
                        _ => EXACT,
                    };
                    let linear = Linear::load(context, &weights, shape).unwrap();
                    let x = tensor(context, &x, shape.in_features);
                    let y = project(context, &x, &[&linear], None).unwrap();
                    let y = context.read(&y[0]).unwrap();
                    assert_close(&what, &y, &expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn ranges_straddle_units_of_work() {
    // 41 units of ten blocks, in ranges of four.
    let shape = LinearShape {
        in_features: 1250,
        out_features: 5200,
    };
    let mut rng = Rng(3);
    let weights = rng.trellis(shape, 3, Codebook::Mul1, true);
    let x = rng.values(8 * shape.in_features);
    let expected = product(&weights, shape, &x);
    for ((name, context), rows) in contexts().into_iter().zip([4, 2, 8]) {
        let linear = Linear::load(&context, &weights, shape).unwrap();
        let x = tensor(&context, &x[..rows * shape.in_features], shape.in_features);
        // Twice: what workgroups meet in is left as it was.
        for _ in 0..2 {
            let y = project(&context, &x, &[&linear], None).unwrap();
            let y = context.read(&y[0]).unwrap();
            let expected = &expected[..rows * shape.out_features];
            assert_close(&format!("{name}, {rows} rows"), &y, expected, EXACT);
        }
    }
}

#[test]
fn several_linears_and_a_residual_in_every_mode() {
    // Of two rates, so that not all can be multiplied at once; long enough to be split.
    let wide = LinearShape {
        in_features: 1100,
        out_features: 300,
    };
    let narrow = LinearShape {
        in_features: 1100,
        out_features: 64,
    };
    let mut results: Vec<(&str, Vec<Vec<f32>>)> = Vec::new();
    let mut software = false;
    for (name, context) in contexts() {
        software = context.gpu().adapter().kind() == AdapterKind::Software;
        let mut rng = Rng(2);
        let weights = [
            (rng.trellis(wide, 3, Codebook::Mul1, true), wide),
            (rng.trellis(narrow, 4, Codebook::Mcg, false), narrow),
            (rng.trellis(narrow, 3, Codebook::Mul1, false), narrow),
            (rng.trellis(narrow, 3, Codebook::Mul1, false), narrow),
            (rng.trellis(narrow, 3, Codebook::Mul1, true), narrow),
            (rng.dense(narrow, 2, true), narrow),
        ];
        let linears = weights
            .each_ref()
            .map(|(weights, shape)| Linear::load(&context, weights, *shape).unwrap());
        let mut all = Vec::new();
        for rows in [1, 3, 20] {
            let x = rng.values(rows * wide.in_features);
            let on_device = tensor(&context, &x, wide.in_features);
            let refs = linears.each_ref();
            // Twice: what is split leaves its counters as they were.
            for _ in 0..2 {
                let outputs = project(&context, &on_device, &refs, None).unwrap();
                for ((weights, shape), y) in weights.iter().zip(&outputs) {
                    let y = context.read(y).unwrap();
                    let what = format!("{name}, {rows} rows");
                    assert_close(&what, &y, &product(weights, *shape, &x), BYTES);
                    all.push(y);
                }
            }
            let residual = rng.values(rows * wide.out_features);
            let on_device_residual = tensor(&context, &residual, wide.out_features);
            let sum = project(&context, &on_device, &refs[..1], Some(&on_device_residual));
            let sum = context.read(&sum.unwrap()[0]).unwrap();
            let mut expected = product(&weights[0].0, wide, &x);
            for (e, r) in expected.iter_mut().zip(&residual) {
                *e += f64::from(*r);
            }
            assert_close(&format!("{name}, residual"), &sum, &expected, BYTES);
            all.push(sum);
        }
        results.push((name, all));
    }
    for (name, all) in results.iter().skip(1) {
        if software {
            // The order of additions is the same whoever exchanges what; only the checks differ.
            assert!(all == &results[0].1, "{name} differs from {}", results[0].0);
        }
        // Hardware's compilers fuse additions as they see fit, and its matrix units have an order of their own.
        for (y, first) in all.iter().zip(&results[0].1) {
            let first: Vec<f64> = first.iter().map(|&v| f64::from(v)).collect();
            assert_close(name, y, &first, BYTES);
        }
    }
}

#[test]
fn experts_picked_and_grouped() {
    let up = LinearShape {
        in_features: 300,
        out_features: 130,
    };
    for (name, context) in contexts() {
        let mut rng = Rng(3);
        // Rates, codebooks and formats mixed within a stack.
        let gates: Vec<_> = (0..6)
            .map(|_| rng.trellis(up, 3, Codebook::Mul1, false))
            .collect();
        let ups: Vec<_> = (0..6)
            .map(|e| match e {
                0..3 => rng.trellis(up, 2, Codebook::Mul1, true),
                3 => rng.trellis(up, 4, Codebook::ThreeInst, false),
                _ => rng.dense(up, e - 4, e == 4),
            })
            .collect();
        let stacks = [(&gates[..], up), (&ups[..], up)];
        let linears = Linear::stack_together(&context, stacks).unwrap();
        let refs = [&linears[0], &linears[1]];

        // Two tokens with three experts each; one expert twice, others not at all.
        let x = rng.values(2 * up.in_features);
        let picks: [u32; 6] = [4, 0, 3, 5, 4, 1];
        let on_device = tensor(&context, &x, up.in_features);
        let experts = context.bring(&picks).unwrap();
        let rows = ExpertRows::Picked {
            experts: &experts.slice(),
            rows: 6,
            per_row: 3,
        };
        let outputs = project_experts(&context, &on_device, rows, &refs).unwrap();
        for (stack, y) in [&gates, &ups].into_iter().zip(&outputs) {
            let expected: Vec<f64> = picks
                .iter()
                .enumerate()
                .flat_map(|(slot, &e)| {
                    let token = slot / 3 * up.in_features;
                    product(&stack[e as usize], up, &x[token..token + up.in_features])
                })
                .collect();
            assert_close(name, &context.read(y).unwrap(), &expected, BYTES);
        }

        for counts in [[0, 7, 1, 0, 20, 5], [1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 3]] {
            let mut offsets = vec![0u32];
            for count in counts {
                offsets.push(offsets[offsets.len() - 1] + count);
            }
            let total = offsets[6] as usize;
            let x = rng.values(total * up.in_features);
            let on_device = tensor(&context, &x, up.in_features);
            let offsets_on_device = context.bring(&offsets).unwrap();
            let rows = ExpertRows::Grouped {
                offsets: &offsets_on_device.slice(),
                rows: total,
            };
            let outputs = project_experts(&context, &on_device, rows, &refs).unwrap();
            for (stack, y) in [&gates, &ups].into_iter().zip(&outputs) {
                let mut expected = Vec::new();
                for (e, weights) in stack.iter().enumerate() {
                    let span = offsets[e] as usize * up.in_features
                        ..offsets[e + 1] as usize * up.in_features;
                    expected.extend(product(weights, up, &x[span]));
                }
                let what = format!("{name}, {counts:?}");
                assert_close(&what, &context.read(y).unwrap(), &expected, BYTES);
            }
        }
    }
}

#[test]
fn every_group_format() {
    let shape = LinearShape {
        in_features: 384,
        out_features: 50,
    };
    let plain = (false, false, Rotation::None);
    let int = Element::Int;
    let formats = [
        (int(IntBits::Four), 128, 1, (true, true, Rotation::None)),
        (int(IntBits::Four), 32, 2, plain),
        (int(IntBits::Two), 64, 0, plain),
        (
            int(IntBits::Three),
            384,
            1,
            (true, false, Rotation::Block(128)),
        ),
        (
            int(IntBits::Eight),
            128,
            2,
            (true, true, Rotation::Block(32)),
        ),
        (int(IntBits::Eight), 128, 0, plain),
        (Element::E2m1, 16, 3, (false, false, Rotation::Block(16))),
        (Element::E2m1, 32, 4, (false, true, Rotation::Block(64))),
        // Groups that cut through groups of eight.
        (Element::E2m1, 12, 1, plain),
    ];
    for (name, context) in contexts() {
        let mut rng = Rng(4);
        for (i, (element, group, scales, more)) in formats.into_iter().enumerate() {
            let weights: Vec<_> = (0..3)
                .map(|_| rng.grouped(shape, element, group, scales, more))
                .collect();
            let what = format!("{name}, {element:?}, groups of {group}, {more:?}");
            let stack = Linear::stack(&context, &weights, shape).unwrap();
            let linear = Linear::load(&context, &weights[0], shape).unwrap();
            // Kernels for many rows, long to compile where a CPU is the device, of one format.
            let counts: &[usize] = if i == 0 { &[1, 5, 17] } else { &[1, 3] };
            for &rows in counts {
                let x = rng.values(rows * shape.in_features);
                let on_device = tensor(&context, &x, shape.in_features);
                let y = project(&context, &on_device, &[&linear, &linear], None).unwrap();
                let expected = product(&weights[0], shape, &x);
                let tolerance = if rows > 16 {
                    many_groups(&context)
                } else {
                    FLOATS
                };
                for y in &y {
                    assert_close(&what, &context.read(y).unwrap(), &expected, tolerance);
                }
                let picks: Vec<u32> = (0..rows as u32).map(|r| (r + 1) % 3).collect();
                let experts = context.bring(&picks).unwrap();
                let how = ExpertRows::Picked {
                    experts: &experts.slice(),
                    rows,
                    per_row: 1,
                };
                let y = project_experts(&context, &on_device, how, &[&stack]).unwrap();
                let expected: Vec<f64> = x
                    .chunks_exact(shape.in_features)
                    .zip(&picks)
                    .flat_map(|(x, &e)| product(&weights[e as usize], shape, x))
                    .collect();
                assert_close(&what, &context.read(&y[0]).unwrap(), &expected, FLOATS);
            }
            let rows = 21;
            let x = rng.values(rows * shape.in_features);
            let on_device = tensor(&context, &x, shape.in_features);
            let offsets = [0, 4, 4, rows as u32];
            let offsets = context.bring(&offsets).unwrap();
            let how = ExpertRows::Grouped {
                offsets: &offsets.slice(),
                rows,
            };
            let y = project_experts(&context, &on_device, how, &[&stack]).unwrap();
            let (first, last) = x.split_at(4 * shape.in_features);
            let mut expected = product(&weights[0], shape, first);
            expected.extend(product(&weights[2], shape, last));
            assert_close(&what, &context.read(&y[0]).unwrap(), &expected, FLOATS);
        }
    }
}

#[test]
fn every_dense_form() {
    // Widths that are not whole groups of eight.
    let shape = LinearShape {
        in_features: 77,
        out_features: 19,
    };
    for (name, context) in contexts() {
        let mut rng = Rng(5);
        for form in 0..3 {
            let weights = rng.dense(shape, form, form == 1);
            let linear = Linear::load(&context, &weights, shape).unwrap();
            for rows in [1, 2, 6, 33] {
                let x = rng.values(rows * shape.in_features);
                let on_device = tensor(&context, &x, shape.in_features);
                let y = project(&context, &on_device, &[&linear], None).unwrap();
                let what = format!("{name}, form {form}, {rows} rows");
                let expected = product(&weights, shape, &x);
                assert_close(&what, &context.read(&y[0]).unwrap(), &expected, FLOATS);
            }
        }
    }
}

/// More rows than share decoded weights, of as many outputs as fill a device: against f64, and against rows a few at a time.
#[test]
fn many_rows_of_every_stored_format() {
    let wide = |in_features| LinearShape {
        in_features,
        out_features: 2750,
    };
    let mut rng = Rng(6);
    let plain = (false, false, Rotation::None);
    let (int, int8) = (Element::Int(IntBits::Four), Element::Int(IntBits::Eight));
    let mut stacks: Vec<(bool, LinearShape, Vec<LinearWeights>)> = Vec::new();
    for (inputs, element, group, scales, more) in [
        // Not whole steps of sixteen.
        (136, int, 136, 1, (true, false, Rotation::None)),
        (160, int8, 160, 2, (true, true, Rotation::Block(32))),
        (
            160,
            Element::E2m1,
            16,
            3,
            (false, false, Rotation::Block(16)),
        ),
        (160, Element::E2m1, 32, 4, plain),
    ] {
        let weights = (0..3).map(|_| rng.grouped(wide(inputs), element, group, scales, more));
        stacks.push((true, wide(inputs), weights.collect()));
    }
    // Not whole groups of eight either.
    let dense = wide(77);
    for form in 0..3 {
        let weights = (0..3).map(|e| rng.dense(dense, form, e == 0));
        stacks.push((false, dense, weights.collect()));
    }
    // The second of three experts has no rows.
    let (rows, offsets) = (150, [0u32, 70, 70, 150]);
    for (grouped, shape, weights) in &stacks {
        let shape = *shape;
        let x = rng.values(rows * shape.in_features);
        let residual = rng.values(rows * shape.out_features);
        let apart: Vec<_> = weights.iter().map(|w| product(w, shape, &x)).collect();
        let mut sorted = apart[0][..70 * shape.out_features].to_vec();
        sorted.extend(&apart[2][70 * shape.out_features..]);
        for mode in [Mode::Trusted, Mode::Checked] {
            let options = Options {
                mode,
                profile: true,
                ..Options::default()
            };
            let Some(context) = one(options) else {
                return;
            };
            let tolerance = match grouped {
                true => many_groups(&context),
                false => FLOATS,
            };
            let what = format!("{mode:?}, {}", name(&weights[0]));
            let stack = Linear::stack(&context, weights, shape).unwrap();
            let linears: Vec<_> = weights
                .iter()
                .map(|weights| Linear::load(&context, weights, shape).unwrap())
                .collect();
            let refs: Vec<_> = linears.iter().collect();
            let on_device = |rows: &[f32]| tensor(&context, rows, shape.in_features);

            let all = project(&context, &on_device(&x), &refs, None).unwrap();
            let all: Vec<_> = all.iter().map(|y| context.read(y).unwrap()).collect();
            taken(&context, &what);
            for (y, expected) in all.iter().zip(&apart) {
                assert_close(&what, y, expected, tolerance);
            }
            // Sums do not depend on what is multiplied besides, where nothing is cut along the inputs.
            let fewer = on_device(&x[..140 * shape.in_features]);
            let fewer = project(&context, &fewer, &refs, None).unwrap();
            let fewer = context.read(&fewer[0]).unwrap();
            if tolerance == FLOATS {
                assert!(fewer[..] == all[0][..fewer.len()], "{what}: other sums");
            }
            for (i, x) in x.chunks(16 * shape.in_features).enumerate() {
                let few = project(&context, &on_device(x), &refs[..1], None).unwrap();
                let few: Vec<_> = context.read(&few[0]).unwrap();
                let few: Vec<_> = few.into_iter().map(f64::from).collect();
                let first = 16 * i * shape.out_features;
                let many = &all[0][first..first + few.len()];
                assert_close(&what, many, &few, tolerance);
            }

            let offsets = context.bring(&offsets).unwrap();
            let how = ExpertRows::Grouped {
                offsets: &offsets.slice(),
                rows,
            };
            context.recorder.take_profile();
            let y = project_experts(&context, &on_device(&x), how, &[&stack, &stack]).unwrap();
            for y in &y {
                let what = format!("{what}, experts");
                assert_close(&what, &context.read(y).unwrap(), &sorted, tolerance);
            }
            taken(&context, &what);

            let to = tensor(&context, &residual, shape.out_features);
            let sum = project(&context, &on_device(&x), &refs[..1], Some(&to)).unwrap();
            let expected: Vec<f64> = residual
                .iter()
                .zip(&apart[0])
                .map(|(r, y)| f64::from(*r) + y)
                .collect();
            let what = format!("{what}, residual");
            assert_close(&what, &context.read(&sum[0]).unwrap(), &expected, tolerance);
            taken(&context, &what);
        }
    }
}

fn name(weights: &LinearWeights) -> String {
    match weights {
        LinearWeights::Trellis(_) => "trellis".to_owned(),
        LinearWeights::Dense { weight, .. } => match weight.data() {
            DenseData::F32(_) => "f32".to_owned(),
            DenseData::F16(_) => "f16".to_owned(),
            DenseData::Bf16(_) => "bf16".to_owned(),
        },
        LinearWeights::Grouped(grouped) => format!("{:?}", grouped.parts().element),
    }
}

/// Many rows were multiplied as such since the last call, if the device can tell.
#[track_caller]
fn taken(context: &Context, what: &str) {
    let Some(profile) = context.recorder.take_profile() else {
        return;
    };
    let names: Vec<_> = profile.kernels().map(|(name, _)| name.to_owned()).collect();
    let many = |name: &String| {
        let kernel = name.split(' ').next();
        matches!(kernel, Some("linear/rows_matmul" | "linear/matmul"))
    };
    assert!(names.iter().any(many), "{what}: {names:?}");
    let few = |name: &String| name.starts_with("linear/rows_gemv");
    assert!(!names.iter().any(few), "{what}: {names:?}");
}
