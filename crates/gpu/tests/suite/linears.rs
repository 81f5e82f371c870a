//! Linears of every format against their own dequantized matrices, in f64.

use std::sync::Arc;

use half::{bf16, f16};
use treillage_backend::{DenseData, DenseWeights, LinearShape, LinearWeights};
use treillage_gptq::{Element, GroupedLinear, IntBits, Parts, Rotation, Scales};
use treillage_gpu::linear::{ExpertRows, Linear, project, project_experts, uses_matrices};
use treillage_gpu::{AdapterKind, Context, Mode, Options, Tensor};
use treillage_trellis::{Bits, Codebook, PackedLinear, PackedParts};

/// Exact activations: weights are not rounded to half precision, sums are in f32.
const EXACT: f64 = 1e-3;
/// Sums of up to 128 products in half precision: of MCG and 3INST, up to four rows.
const HALVES: f64 = 2e-3;
/// Eight bits of magnitude and a sign.
const BYTES: f64 = 8e-3;
/// Everything in f32.
const FLOATS: f64 = 1e-5;

/// xorshift64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Uniform in ±1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit()).collect()
    }

    fn trellis(
        &mut self,
        shape: LinearShape,
        bits: usize,
        codebook: Codebook,
        bias: bool,
    ) -> LinearWeights {
        let inputs = shape.in_features.next_multiple_of(128);
        let outputs = shape.out_features.next_multiple_of(128);
        let tiles = [inputs / 16, outputs / 16, 16 * bits];
        let words: Vec<u16> = (0..tiles.iter().product())
            .map(|_| self.next() as u16)
            .collect();
        let mut halves =
            |count: usize| -> Vec<f16> { (0..count).map(|_| f16::from_f32(self.unit())).collect() };
        let packed = PackedLinear::new(PackedParts {
            words: Arc::new(words),
            shape: tiles,
            codebook,
            suh: halves(inputs),
            svh: halves(outputs),
            bias: bias.then(|| halves(outputs)),
        });
        let packed = packed.unwrap();
        assert_eq!(packed.bits(), Bits::new(bits).unwrap());
        LinearWeights::Trellis(Arc::new(packed))
    }

    fn dense(&mut self, shape: LinearShape, form: usize, bias: bool) -> LinearWeights {
        let values = self.values(shape.weights());
        let data = match form {
            0 => DenseData::F32(Arc::new(values)),
            1 => DenseData::F16(Arc::new(
                values.into_iter().map(f16::from_f32).collect::<Vec<_>>(),
            )),
            _ => DenseData::Bf16(Arc::new(
                values.into_iter().map(bf16::from_f32).collect::<Vec<_>>(),
            )),
        };
        LinearWeights::Dense {
            weight: DenseWeights::new(shape.out_features, shape.in_features, data).unwrap(),
            bias: bias.then(|| self.values(shape.out_features)),
        }
    }

    fn grouped(
        &mut self,
        shape: LinearShape,
        element: Element,
        group: usize,
        scales: usize,
        (zeros, order, rotation): (bool, bool, Rotation),
    ) -> LinearWeights {
        let (inputs, outputs) = (shape.in_features, shape.out_features);
        let levels = match element {
            Element::Int(bits) => bits.levels() as u64,
            Element::E2m1 => 16,
        };
        let code = |rng: &mut Self| (rng.next() >> 20) % levels;
        let codes: Vec<u8> = (0..inputs * outputs * element.code_bits() / 8)
            .map(|_| match element.code_bits() {
                8 => code(self) as u8,
                _ => (code(self) | code(self) << 4) as u8,
            })
            .collect();
        let groups = outputs * (inputs / group);
        let floats: Vec<f32> = (0..groups).map(|_| 0.1 + self.unit().abs()).collect();
        let scales = match scales {
            0 => Scales::F32(floats),
            1 => Scales::F16(floats.into_iter().map(f16::from_f32).collect()),
            2 => Scales::Bf16(floats.into_iter().map(bf16::from_f32).collect()),
            // Every E4M3 number but NaN; subnormal ones too.
            3 => Scales::E4m3 {
                bytes: (0..groups).map(|i| (i % 127) as u8).collect(),
                global: 300.0,
            },
            _ => Scales::E8m0 {
                bytes: (0..groups).map(|i| 120 + (i % 9) as u8).collect(),
                global: 3.0,
            },
        };
        let mut inputs_in_order: Vec<u32> = (0..inputs as u32).collect();
        for i in (1..inputs).rev() {
            inputs_in_order.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        let parts = Parts {
            in_features: inputs,
            out_features: outputs,
            element,
            group,
            codes,
            scales,
            zeros: zeros.then(|| (0..groups).map(|_| code(self) as u8).collect()),
            order: order.then_some(inputs_in_order),
            rotation,
            bias: Some(self.values(outputs)),
        };
        LinearWeights::Grouped(Arc::new(GroupedLinear::new(parts).unwrap()))
    }
}

/// The matrix `[out, in]` and the bias.
fn matrix(weights: &LinearWeights, shape: LinearShape) -> (Vec<f64>, Vec<f64>) {
    let (inputs, outputs) = (shape.in_features, shape.out_features);
    let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let none = || vec![0.0; outputs];
    match weights {
        LinearWeights::Trellis(packed) => {
            let matrix = packed.dequantize();
            let values = (0..outputs)
                .flat_map(|o| (0..inputs).map(move |i| (i, o)))
                .map(|at| f64::from(matrix[at]));
            let bias = packed.bias().map(|bias| {
                let bias = bias[..outputs].iter();
                bias.map(|b| f64::from(b.to_f32())).collect()
            });
            (values.collect(), bias.unwrap_or_else(none))
        }
        LinearWeights::Dense { weight, bias } => {
            let values: Vec<f32> = (0..outputs).flat_map(|r| weight.row(r)).collect();
            (wide(&values), bias.as_deref().map_or_else(none, wide))
        }
        LinearWeights::Grouped(grouped) => {
            let bias = grouped.parts().bias.as_deref();
            (wide(&grouped.dequantize()), bias.map_or_else(none, wide))
        }
    }
}

fn product(weights: &LinearWeights, shape: LinearShape, x: &[f32]) -> Vec<f64> {
    let (matrix, bias) = matrix(weights, shape);
    let mut y = Vec::new();
    for x in x.chunks_exact(shape.in_features) {
        for (row, bias) in matrix.chunks_exact(shape.in_features).zip(&bias) {
            let dot: f64 = row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
            y.push(dot + bias);
        }
    }
    y
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / got.len() as f64;
    let power = mean(&mut expected.iter().map(|e| e * e));
    let error = mean(
        &mut got
            .iter()
            .zip(expected)
            .map(|(g, e)| (f64::from(*g) - e).powi(2)),
    );
    let relative = (error / power).sqrt();
    assert!(relative < tolerance, "{what}: off by {relative:.2e}");
}

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
            // Kernels are long to compile where a CPU is the device: those for many rows at one rate.
            let counts: &[usize] = if bits == 3 {
                &[1, 2, 5, 16, 40]
            } else {
                &[1, 2]
            };
            for &rows in counts {
                let what = format!("K = {bits}, {codebook}, {rows} rows");
                let x = rng.values(rows * shape.in_features);
                let expected = product(&weights, shape, &x);
                for context in [&context, &exact] {
                    if bits != 3 && codebook != Codebook::Mul1 && context.gpu().options().exact {
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
        for (element, group, scales, more) in formats {
            let weights: Vec<_> = (0..3)
                .map(|_| rng.grouped(shape, element, group, scales, more))
                .collect();
            let what = format!("{name}, {element:?}, groups of {group}, {more:?}");
            let stack = Linear::stack(&context, &weights, shape).unwrap();
            let linear = Linear::load(&context, &weights[0], shape).unwrap();
            for rows in [1, 5, 17] {
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
