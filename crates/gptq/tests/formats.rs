//! Number formats, packing and the linear against values that this crate did not compute, and against slow twins.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that it cannot read"
)]

mod safetensors;

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::Golden;
use treillage_gptq::{
    Element, Error, GroupedLinear, IntBits, MxRule, Parts, Rotation, Scales, e2m1, e4m3, e8m0, int,
    pack,
};

const BITS: [IntBits; 4] = [IntBits::Two, IntBits::Three, IntBits::Four, IntBits::Eight];

// Number grids

#[test]
fn e2m1_rounds_as_recorded() {
    let golden = Golden::open();
    let x = golden.f32("e2m1.x");
    let expected = golden
        .u8("e2m1.codes")
        .into_iter()
        .zip(golden.f32("e2m1.rounded"));
    for (x, (code, rounded)) in x.into_iter().zip(expected) {
        assert_eq!(e2m1::encode(x), code, "{x}");
        assert_eq!(e2m1::round(x), rounded, "{x}");
        assert_eq!(e2m1::decode(code), rounded, "{x}");
    }
}

#[test]
fn e4m3_rounds_and_decodes_as_recorded() {
    let golden = Golden::open();
    for (byte, expected) in (0..=255).zip(golden.f32("e4m3.values")) {
        let value = e4m3::decode(byte);
        assert!(value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan());
        assert_eq!(value.is_nan(), e4m3::is_nan(byte));
        // NaN comes back as the NaN of its sign.
        assert_eq!(e4m3::encode(value) & 0x7F, byte & 0x7F);
        if !value.is_nan() {
            assert_eq!(e4m3::encode(value), byte);
        }
    }
    for (x, code) in golden
        .f32("e4m3.x")
        .into_iter()
        .zip(golden.u8("e4m3.codes"))
    {
        assert_eq!(e4m3::encode(x), code, "{x:e}");
    }
    assert_eq!([f32::NAN, -f32::NAN].map(e4m3::encode), [0x7F, 0xFF]);
}

#[test]
fn e8m0_follows_its_three_rules() {
    let golden = Golden::open();
    for (byte, value) in (0..=254).zip(golden.f32("e8m0.values")) {
        assert_eq!(e8m0::decode(byte).to_bits(), value.to_bits());
    }
    assert!(e8m0::decode(255).is_nan());
    let rules = [
        ("e8m0.ocp", MxRule::Ocp),
        ("e8m0.ct", MxRule::CompressedTensors),
        ("e8m0.fpq", MxRule::FpQuant),
    ];
    for (name, rule) in rules {
        for (a, byte) in golden.f32("e8m0.absmax").into_iter().zip(golden.u8(name)) {
            assert_eq!(e8m0::from_absmax(a, rule), byte, "{name} of {a:e}");
        }
    }
}

/// The code whose value is nearest, the even one of two.
fn nearest(x: f32, values: impl Iterator<Item = (u8, f32)>) -> u8 {
    let distance = |value: f32| (f64::from(x) - f64::from(value)).abs();
    let closer = |a: &(u8, f32), b: &(u8, f32)| {
        let even = (a.0 % 2).cmp(&(b.0 % 2));
        distance(a.1).total_cmp(&distance(b.1)).then(even)
    };
    values.min_by(closer).unwrap().0
}

/// Floats of all sizes, and those between neighbours of a grid.
fn number() -> impl Strategy<Value = f32> {
    prop_oneof![
        -9f32..9.0,
        (-64i32..64).prop_map(|n| n as f32 / 8.0),
        (-500f32..500.0),
        (-40i32..12, 1f32..2.0).prop_map(|(e, x)| x * 2f32.powi(e)),
    ]
}

proptest! {
    #[test]
    fn e2m1_encodes_to_nearest(x in number()) {
        let code = e2m1::encode(x);
        let magnitude = nearest(x.abs(), (0..8).map(|code| (code, e2m1::decode(code))));
        prop_assert_eq!(code & 7, magnitude);
        prop_assert_eq!(code & 8 != 0, x < 0.0 && magnitude > 0);
        prop_assert_eq!(e2m1::decode(code), e2m1::round(x));
    }

    #[test]
    fn e4m3_encodes_to_nearest(x in number()) {
        let byte = e4m3::encode(x);
        let magnitude = nearest(x.abs(), (0..0x7F).map(|byte| (byte, e4m3::decode(byte))));
        prop_assert_eq!(byte & 0x7F, magnitude);
        prop_assert_eq!(byte >> 7 == 1, x.is_sign_negative());
    }

    #[test]
    fn integers_encode_to_nearest(x in -300f32..300.0, halves in -600i32..600, zero: u8) {
        for bits in BITS {
            let zero = zero & (bits.levels() - 1) as u8;
            for x in [x, halves as f32 / 2.0] {
                let expected = x.round_ties_even() as i32 + i32::from(zero);
                let expected = expected.clamp(0, bits.levels() as i32 - 1) as u8;
                let code = int::encode(x, zero, bits);
                prop_assert_eq!(code, expected);
                let [low, high] = int::range(zero, bits);
                prop_assert_eq!(int::round(x, low, high), int::decode(code, zero));
            }
        }
    }
}

#[test]
fn codes_come_back_from_their_values() {
    for code in (0..16).filter(|&code| code != 8) {
        assert_eq!(e2m1::encode(e2m1::decode(code)), code);
    }
    assert_eq!(e2m1::encode(-0.0), 0);
    for bits in BITS {
        for zero in 0..bits.levels() as u32 {
            for code in 0..bits.levels() as u32 {
                let (zero, code) = (zero as u8, code as u8);
                assert_eq!(int::encode(int::decode(code, zero), zero, bits), code);
            }
        }
    }
}

// Packing

#[test]
fn codes_pack_as_recorded() {
    let golden = Golden::open();
    for bits in BITS {
        let name = |part: &str| format!("pack{}.{part}", bits.get());
        let codes = golden.u8(&name("codes"));
        let [rows, columns] = golden.shape(&name("codes"));
        let packed = golden.u32(&name("rows"));
        assert_eq!(pack::pack_rows(&codes, columns, bits), packed);
        assert_eq!(pack::unpack_rows(&packed, rows, columns, bits), codes);
        let packed = golden.u32(&name("columns"));
        assert_eq!(pack::pack_columns(&codes, columns, bits), packed);
        assert_eq!(pack::unpack_columns(&packed, rows, columns, bits), codes);
    }
    for bits in [IntBits::Two, IntBits::Four, IntBits::Eight] {
        let name = |part: &str| format!("gptq{}.{part}", bits.get());
        let codes = golden.u8(&name("codes"));
        let [outputs, inputs] = golden.shape(&name("codes"));
        let packed = pack::pack_columns(&pack::transpose(&codes, inputs), outputs, bits);
        assert_eq!(packed, golden.u32(&name("qweight")));
    }
    let codes = golden.u8("nibbles.codes");
    assert_eq!(pack::nibbles(&codes), golden.u8("nibbles.packed"));
    assert_eq!(pack::widen(&golden.u8("nibbles.packed")), codes);
}

#[test]
fn three_bits_straddle_words() {
    // Value 10 has two bits in the first word, value 21 one in the second.
    let mut codes = [0; 32];
    (codes[10], codes[21]) = (0b101, 0b110);
    let words = pack::pack_rows(&codes, 32, IntBits::Three);
    assert_eq!(words, [0b01 << 30, 0b1, 0b11]);
}

proptest! {
    #[test]
    fn packing_is_undone(
        rows in 1usize..40,
        columns in 1usize..70,
        bytes in prop::collection::vec(any::<u8>(), 40 * 70),
    ) {
        let bytes = &bytes[..rows * columns];
        for bits in BITS {
            let codes: Vec<u8> = bytes.iter().map(|b| b & (bits.levels() - 1) as u8).collect();
            // What does not fit into a code is not packed.
            let packed = pack::pack_rows(bytes, columns, bits);
            prop_assert_eq!(packed.len(), rows * (columns * bits.get()).div_ceil(32));
            // Code `i` of a row is bits `i b` and up of its stream.
            for (row, words) in codes.chunks(columns).zip(packed.chunks(packed.len() / rows)) {
                let bit = |at: usize| words[at / 32] >> (at % 32) & 1;
                for at in 0..32 * words.len() {
                    let code = row.get(at / bits.get()).copied().unwrap_or(0);
                    prop_assert_eq!(bit(at), u32::from(code >> (at % bits.get()) & 1));
                }
            }
            prop_assert_eq!(&pack::unpack_rows(&packed, rows, columns, bits), &codes);
            let packed = pack::pack_columns(bytes, columns, bits);
            prop_assert_eq!(packed.len(), (rows * bits.get()).div_ceil(32) * columns);
            prop_assert_eq!(&pack::unpack_columns(&packed, rows, columns, bits), &codes);
            let element = Element::Int(bits);
            let mut stored = pack::from_stored(&pack::to_stored(codes.clone(), element), element);
            stored.truncate(codes.len());
            prop_assert_eq!(&stored, &codes);
        }
        let transposed = pack::transpose(bytes, columns);
        for (i, &byte) in bytes.iter().enumerate() {
            prop_assert_eq!(transposed[i % columns * rows + i / columns], byte);
        }
    }
}

// The linear

fn parts(element: Element, scales: Scales) -> Parts {
    Parts {
        in_features: 32,
        out_features: 2,
        element,
        group: 16,
        codes: vec![0x11; 2 * 32 * element.code_bits() / 8],
        scales,
        zeros: None,
        order: None,
        rotation: Rotation::None,
        bias: None,
    }
}

#[test]
fn parts_that_are_no_linear_are_refused() {
    let ones = || Scales::F16(vec![f16::ONE; 4]);
    let int = |bits| parts(Element::Int(bits), ones());
    let refused = |parts| GroupedLinear::new(parts).unwrap_err();
    assert!(GroupedLinear::new(int(IntBits::Three)).is_ok());

    let mut codes = int(IntBits::Three);
    codes.codes[9] = 0x81;
    let expected = "codes: 8 is no code of 3 bits";
    assert_eq!(refused(codes).to_string(), expected);
    let mut zeros = int(IntBits::Four);
    zeros.zeros = Some(vec![0, 15, 16, 0]);
    assert!(matches!(
        refused(zeros),
        Error::Code {
            what: "zeros",
            value: 16,
            bits: 4
        }
    ));
    let mut zeros = parts(Element::E2m1, ones());
    zeros.zeros = Some(vec![0; 4]);
    assert!(matches!(refused(zeros), Error::Zeros));

    let e4m3 = |bytes, global| parts(Element::E2m1, Scales::E4m3 { bytes, global });
    assert!(GroupedLinear::new(e4m3(vec![0x7E; 4], 1.0)).is_ok());
    for global in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(
            refused(e4m3(vec![1; 4], global)),
            Error::GlobalScale(_)
        ));
    }
    let strange = [
        e4m3(vec![1, 1, 1, 0x7F], 1.0),
        parts(
            Element::E2m1,
            Scales::E8m0 {
                bytes: vec![127, 127, 127, 255],
                global: 1.0,
            },
        ),
        parts(Element::E2m1, Scales::F32(vec![1.0, 1.0, 1.0, f32::NAN])),
        parts(
            Element::E2m1,
            Scales::Bf16([1.0, 1.0, 1.0, f32::INFINITY].map(bf16::from_f32).to_vec()),
        ),
    ];
    for parts in strange {
        assert!(matches!(
            refused(parts),
            Error::Scale {
                output: 1,
                group: 1,
                ..
            }
        ));
    }
    let mut short = int(IntBits::Four);
    short.scales = Scales::F16(vec![f16::ONE; 3]);
    assert!(matches!(
        refused(short),
        Error::Shape {
            what: "scales",
            expected: 4,
            found: 3
        }
    ));
    let mut huge = int(IntBits::Four);
    huge.out_features = usize::MAX;
    assert!(matches!(refused(huge), Error::Shape { .. }));
}

#[test]
fn printing_a_linear_prints_no_codes() {
    let printed = format!(
        "{:?}",
        GroupedLinear::new(parts(Element::E2m1, Scales::F32(vec![0.5; 4]))).unwrap()
    );
    assert!(
        printed.contains("in_features: 32") && printed.len() < 300,
        "{printed}"
    );
}

proptest! {
    #[test]
    fn rows_decode_to_code_times_scale(
        bytes in prop::collection::vec(any::<u8>(), 64),
        zeros in prop::collection::vec(any::<u8>(), 4),
        asymmetric: bool,
        which in 0usize..5,
    ) {
        let element = BITS.get(which).map_or(Element::E2m1, |&bits| Element::Int(bits));
        let most = ((1u32 << element.bits()) - 1) as u8;
        let codes: Vec<u8> = bytes.iter().map(|byte| byte & most).collect();
        let mut parts = parts(element, Scales::F32(vec![0.5, 3.0, 0.1, 7.0]));
        parts.codes = pack::to_stored(codes.clone(), element);
        if asymmetric && element != Element::E2m1 {
            parts.zeros = Some(zeros.iter().map(|zero| zero & most).collect());
        }
        let linear = GroupedLinear::new(parts).unwrap();
        let mut row = [0.0; 32];
        for output in 0..2 {
            linear.decode_row(output, &mut row);
            for (input, weight) in row.iter().enumerate() {
                let at = output * 2 + input / 16;
                let zero = linear.parts().zeros.as_ref().map_or(element.middle(), |z| z[at]);
                let code = linear.code(output, input);
                prop_assert_eq!(code, codes[output * 32 + input]);
                prop_assert_eq!(*weight, element.decode(code, zero) * linear.parts().scales.get(at));
            }
        }
        prop_assert_eq!(linear.dequantize()[32..].to_vec(), row.to_vec());
    }
}
