//! Products of grouped linears against the dequantized matrix, with every instruction set.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first linear that it cannot make"
)]

use half::{bf16, f16};
use proptest::prelude::*;
use treillage_cpu::Arithmetic;
use treillage_cpu::grouped::Arranged;
use treillage_gptq::{Element, Format, GroupedLinear, IntBits, Parts, Rotation, Scales};
use treillage_trellis::lanes::Isa;

/// Uniform numbers, the same on every machine (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    /// In −1..1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.signed()).collect()
    }

    fn permutation(&mut self, len: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..len as u32).collect();
        for i in (1..len).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }

    /// Any codes, and scales from `scales`, of which there are as many as groups.
    fn linear(&mut self, case: &Case) -> GroupedLinear {
        let Case {
            element,
            group,
            inputs,
            outputs,
            ..
        } = *case;
        let levels = 1 << element.bits();
        let code = |random: &mut Self| random.below(levels) as u8;
        let codes = (0..inputs * outputs * element.code_bits() / 8)
            .map(|_| match element.code_bits() {
                8 => code(self),
                _ => code(self) | code(self) << 4,
            })
            .collect();
        let groups = outputs * inputs / group;
        let mut floats = |near: f32| -> Vec<f32> {
            (0..groups)
                .map(|_| near * (1.0 + 0.9 * self.signed()))
                .collect()
        };
        let scales = match case.scales {
            ScaleKind::F16 => Scales::F16(floats(0.1).into_iter().map(f16::from_f32).collect()),
            ScaleKind::Bf16 => Scales::Bf16(floats(0.1).into_iter().map(bf16::from_f32).collect()),
            ScaleKind::F32 => Scales::F32(floats(0.1)),
            ScaleKind::E4m3 => Scales::E4m3 {
                bytes: (0..groups).map(|_| self.below(0x7F) as u8).collect(),
                global: 301.5,
            },
            ScaleKind::E8m0 => Scales::E8m0 {
                bytes: (0..groups).map(|_| 120 + self.below(8) as u8).collect(),
                global: 3.0,
            },
        };
        GroupedLinear::new(Parts {
            in_features: inputs,
            out_features: outputs,
            element,
            group,
            codes,
            scales,
            zeros: case
                .zeros
                .then(|| (0..groups).map(|_| code(self)).collect()),
            order: case.order.then(|| self.permutation(inputs)),
            rotation: case.rotation,
            bias: case.bias.then(|| self.vector(outputs)),
        })
        .unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
enum ScaleKind {
    F16,
    Bf16,
    F32,
    E4m3,
    E8m0,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    element: Element,
    group: usize,
    scales: ScaleKind,
    inputs: usize,
    outputs: usize,
    zeros: bool,
    order: bool,
    rotation: Rotation,
    bias: bool,
}

impl Case {
    fn of(format: Format, inputs: usize, outputs: usize) -> Self {
        Self {
            element: format.element(),
            group: format.default_group(),
            scales: match format {
                Format::Int(_) | Format::Fp4 => ScaleKind::F16,
                Format::NvFp4 => ScaleKind::E4m3,
                Format::MxFp4 => ScaleKind::E8m0,
            },
            inputs,
            outputs,
            zeros: false,
            order: false,
            rotation: Rotation::None,
            bias: false,
        }
    }
}

/// `x Wᵀ + bias` in f64.
fn expected_output(linear: &GroupedLinear, x: &[f32]) -> Vec<f64> {
    let width = linear.in_features();
    let weights = linear.dequantize();
    let mut out = Vec::new();
    for x in x.chunks_exact(width) {
        for (i, row) in weights.chunks_exact(width).enumerate() {
            let products = x
                .iter()
                .zip(row)
                .map(|(&x, &w)| f64::from(x) * f64::from(w));
            let bias = linear
                .parts()
                .bias
                .as_ref()
                .map_or(0.0, |b| f64::from(b[i]));
            out.push(products.sum::<f64>() + bias);
        }
    }
    out
}

/// The root mean square of the difference, relative to that of what is expected.
fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let energy: f64 = expected.iter().map(|e| e * e).sum();
    let error: f64 = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f) - e).powi(2))
        .sum();
    (error / energy).sqrt()
}

fn product(isa: Isa, arithmetic: Arithmetic, linear: &GroupedLinear, x: &[f32]) -> Vec<f32> {
    let arranged = Arranged::new(isa, arithmetic, linear, x);
    let outputs = linear.out_features();
    let mut out = vec![f32::NAN; arranged.rows() * outputs];
    arranged.multiply(linear, 0..outputs, &mut out);
    out
}

/// What [`Arithmetic::Int8`] may cost: activations are rounded to 1/127 of the largest of eight, or four, so by 1/440 of it
/// on average; uniform ones have a root mean square of 0.58, and a largest magnitude of 0.89.
const INT8_ERROR: f64 = 0.0045;

fn check(seed: u64, case: &Case, rows: usize) {
    let mut random = Random(seed);
    let linear = random.linear(case);
    let x = random.vector(rows * case.inputs);
    let expected = expected_output(&linear, &x);
    for isa in Isa::available() {
        let what = format!("{}, {rows} rows, {case:?}", isa.level().name());
        let exact = relative_error(&product(isa, Arithmetic::Exact, &linear, &x), &expected);
        assert!(exact < 2e-6, "{what}: relative error {exact}");
        let int8 = relative_error(&product(isa, Arithmetic::Int8, &linear, &x), &expected);
        // Rounding errors of few products do not average out.
        let bound = INT8_ERROR * if case.outputs * rows < 64 { 3.0 } else { 1.5 };
        assert!(int8 < bound, "{what}: relative error {int8} of int8");
        // Where groups are not whole lanes, there is no such arithmetic.
        let lane = 32 / case.element.code_bits();
        let rounds = case.group.is_multiple_of(lane);
        assert_eq!(int8 > 1e-4, rounds, "{what}: relative error {int8} of int8");
    }
}

#[test]
fn every_format_is_multiplied_for_any_number_of_rows() {
    for (seed, format) in Format::ALL.into_iter().enumerate() {
        for rows in [1, 2, 3, 5, 64] {
            check(seed as u64, &Case::of(format, 512, 70), rows);
        }
    }
}

#[test]
fn asymmetric_integers_are_counted_from_their_zeros() {
    for (seed, bits) in [IntBits::Two, IntBits::Three, IntBits::Four, IntBits::Eight]
        .into_iter()
        .enumerate()
    {
        for group in [8, 32, 128] {
            for rows in [1, 4, 20] {
                let case = Case {
                    zeros: true,
                    group,
                    ..Case::of(Format::Int(bits), 384, 66)
                };
                check(10 + seed as u64, &case, rows);
            }
        }
    }
}

#[test]
fn inputs_are_reordered_rotated_and_the_bias_added() {
    for format in [Format::Int(IntBits::Four), Format::NvFp4] {
        for block in Rotation::BLOCKS {
            for order in [false, true] {
                for rows in [1, 3, 17] {
                    let case = Case {
                        order,
                        rotation: Rotation::Block(block),
                        bias: true,
                        ..Case::of(format, 256, 65)
                    };
                    check(20 + block as u64, &case, rows);
                }
            }
        }
    }
}

/// Groups that are whole chunks, parts of them, whole lanes only, and not even that; the last chunk in part.
#[test]
fn groups_of_any_size_have_their_scales() {
    let sizes = [
        (2, 90),
        (6, 90),
        (8, 72),
        (16, 208),
        (20, 140),
        (24, 168),
        (40, 200),
        (48, 240),
    ];
    let wide = [
        (64, 320),
        (96, 288),
        (100, 300),
        (128, 640),
        (192, 576),
        (256, 768),
        (400, 400),
    ];
    for (group, inputs) in sizes.into_iter().chain(wide) {
        for format in [Format::Fp4, Format::Int(IntBits::Eight)] {
            for rows in [1, 2, 18] {
                let case = Case {
                    group,
                    ..Case::of(format, inputs, 67)
                };
                check(group as u64, &case, rows);
            }
        }
    }
}

#[test]
fn ranges_of_outputs_are_columns_of_the_whole() {
    let mut random = Random(2);
    for case in [
        Case::of(Format::NvFp4, 256, 150),
        Case {
            group: 2,
            ..Case::of(Format::Int(IntBits::Four), 100, 150)
        },
    ] {
        let linear = random.linear(&case);
        for arithmetic in [Arithmetic::Exact, Arithmetic::Int8] {
            for rows in [1, 3, 20] {
                let x = random.vector(rows * case.inputs);
                let whole = product(Isa::best(), arithmetic, &linear, &x);
                let arranged = Arranged::new(Isa::best(), arithmetic, &linear, &x);
                for outputs in [0..128, 128..150, 7..8, 50..50] {
                    let mut part = vec![f32::NAN; rows * outputs.len()];
                    arranged.multiply(&linear, outputs.clone(), &mut part);
                    let columns: Vec<f32> = (whole.chunks_exact(150))
                        .flat_map(|row| &row[outputs.clone()])
                        .copied()
                        .collect();
                    let what = format!("{arithmetic:?}, {rows} rows, {outputs:?}");
                    if rows <= 3 {
                        assert_eq!(part, columns, "{what}");
                    } else if !outputs.is_empty() {
                        // A matrix product adds up as its size suggests.
                        let columns: Vec<f64> = columns.into_iter().map(f64::from).collect();
                        assert!(relative_error(&part, &columns) < 1e-6, "{what}");
                    }
                }
            }
        }
    }
}

/// Both sums are exact integers, lane by lane, so that nothing saturates or wraps on any instruction set.
#[test]
fn the_largest_codes_and_activations_do_not_overflow() {
    for format in Format::ALL {
        let case = Case::of(format, 256, 5);
        for code in [0x00, 0x77, 0xFF] {
            let mut parts = Random(3).linear(&case).into_parts();
            parts.codes.fill(match case.element.bits() {
                8 => code,
                bits => code & (((1 << bits) - 1) * 0x11),
            });
            let linear = GroupedLinear::new(parts).unwrap();
            for sign in [1.0, -1.0] {
                let x = vec![sign; 256];
                let expected = expected_output(&linear, &x);
                if expected.iter().all(|&y| y == 0.0) {
                    continue;
                }
                for isa in Isa::available() {
                    let found = product(isa, Arithmetic::Int8, &linear, &x);
                    let error = relative_error(&found, &expected);
                    // All activations are the largest of their lane: none is rounded.
                    assert!(
                        error < 1e-6,
                        "{}, {format}, {code:x}: {error}",
                        isa.level().name()
                    );
                }
            }
        }
    }
}

#[test]
fn activations_that_are_not_finite_show_in_every_output() {
    let mut random = Random(4);
    for format in [
        Format::Int(IntBits::Four),
        Format::Int(IntBits::Eight),
        Format::NvFp4,
    ] {
        let mut parts = random.linear(&Case::of(format, 256, 9)).into_parts();
        // A code of zero times an infinity is NaN; a scale of zero as well.
        if let Scales::E4m3 { bytes, .. } = &mut parts.scales {
            bytes[0] = 0;
        }
        let linear = GroupedLinear::new(parts).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = random.vector(256);
            x[3] = bad;
            for isa in Isa::available() {
                for arithmetic in [Arithmetic::Exact, Arithmetic::Int8] {
                    let found = product(isa, arithmetic, &linear, &x);
                    assert!(
                        found.iter().all(|y| !y.is_finite()),
                        "{}, {format}, {arithmetic:?}: {bad} gives {found:?}",
                        isa.level().name()
                    );
                }
            }
        }
    }
}

#[test]
fn inputs_are_shared_by_linears_that_want_them_alike() {
    let mut random = Random(5);
    let base = Case::of(Format::Int(IntBits::Four), 256, 20);
    let linear = random.linear(&base);
    let serves =
        |case: Case, random: &mut Random| Arranged::serves_both(&linear, &random.linear(&case));
    for alike in [
        Case { outputs: 7, ..base },
        Case { group: 32, ..base },
        Case {
            zeros: true,
            bias: true,
            ..base
        },
    ] {
        assert!(serves(alike, &mut random), "{alike:?}");
        let other = random.linear(&alike);
        let x = random.vector(2 * 256);
        for arithmetic in [Arithmetic::Exact, Arithmetic::Int8] {
            let arranged = Arranged::new(Isa::best(), arithmetic, &linear, &x);
            let mut out = vec![0.0; 2 * alike.outputs];
            arranged.multiply(&other, 0..alike.outputs, &mut out);
            assert_eq!(
                out,
                product(Isa::best(), arithmetic, &other, &x),
                "{alike:?}"
            );
        }
    }
    for different in [
        Case { group: 2, ..base },
        Case {
            order: true,
            ..base
        },
        Case {
            rotation: Rotation::Block(16),
            ..base
        },
        Case {
            element: Element::E2m1,
            ..base
        },
        Case {
            element: Element::Int(IntBits::Eight),
            ..base
        },
        Case {
            element: Element::Int(IntBits::Three),
            ..base
        },
        Case {
            inputs: 384,
            ..base
        },
    ] {
        assert!(!serves(different, &mut random), "{different:?}");
    }
    // Two orders are the same only if they are equal.
    let ordered = random.linear(&Case {
        order: true,
        ..base
    });
    assert!(Arranged::serves_both(&ordered, &ordered.clone()));
    assert!(!Arranged::serves_both(
        &ordered,
        &random.linear(&Case {
            order: true,
            ..base
        })
    ));
}

proptest! {
    #[test]
    fn linears_of_any_make_are_multiplied(
        seed in any::<u64>(),
        element in prop::sample::select(vec![
            Element::Int(IntBits::Two),
            Element::Int(IntBits::Three),
            Element::Int(IntBits::Four),
            Element::Int(IntBits::Eight),
            Element::E2m1,
        ]),
        half_group in 1usize..80,
        groups in 1usize..6,
        outputs in 1usize..40,
        rows in 1usize..20,
        scales in prop::sample::select(vec![
            ScaleKind::F16,
            ScaleKind::Bf16,
            ScaleKind::F32,
            ScaleKind::E4m3,
            ScaleKind::E8m0,
        ]),
        zeros: bool,
        order: bool,
        bias: bool,
    ) {
        let group = 2 * half_group;
        let mut random = Random(seed);
        let case = Case {
            element, group, scales, inputs: group * groups, outputs, order, bias,
            // Floats have a zero of their own.
            zeros: zeros && element != Element::E2m1,
            rotation: Rotation::None,
        };
        let linear = random.linear(&case);
        let x = random.vector(rows * case.inputs);
        let expected = expected_output(&linear, &x);
        // Sums may cancel: errors are held against the sum of magnitudes.
        let magnitudes: Vec<f32> = linear.dequantize().iter().map(|w| w.abs()).collect();
        for isa in Isa::available() {
            for (arithmetic, tolerance) in [(Arithmetic::Exact, 1e-6), (Arithmetic::Int8, 0.008)] {
                let found = product(isa, arithmetic, &linear, &x);
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let (row, output) = (i / outputs, i % outputs);
                    let x = &x[row * case.inputs..][..case.inputs];
                    let weights = &magnitudes[output * case.inputs..][..case.inputs];
                    // A step is 1/127 of the largest activation, which is at most 1.
                    let size: f32 = weights.iter().zip(x).map(|(w, x)| match arithmetic {
                        Arithmetic::Exact => w * (x.abs() + 0.1),
                        Arithmetic::Int8 => *w,
                    }).sum();
                    let offset = if zeros { 4.0 } else { 1.0 };
                    let size = f64::from(size) * offset + expected.abs() + 1.0;
                    let error = (f64::from(*found) - expected).abs();
                    prop_assert!(
                        error <= tolerance * size,
                        "{} {arithmetic:?} {i}: {found} for {expected}, size {size}",
                        isa.level().name()
                    );
                }
            }
        }
    }
}
